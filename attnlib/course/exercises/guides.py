"""What goes with each exercise: minutes, how hard it is from 1 to 3, and two hints."""

from typing import NamedTuple


class Guide(NamedTuple):
    minutes: int
    level: int
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.minutes} minutes, {'★' * self.level}{'☆' * (3 - self.level)}"


GUIDES = {
    "largest_exponents": Guide(
        5,
        1,
        "Each format has a largest finite number. Which power of e is it?",
        "The exponent bits decide: which two of the four formats have as many of them?",
    ),
    "log_sum_exp": Guide(
        10,
        1,
        "ln(e^a + e^b) = m + ln(e^(a−m) + e^(b−m)) for any m. Which m keeps all powers small?",
        "What is your m in a row that is -inf throughout, and what is -inf minus -inf?",
    ),
    "masked_softmax": Guide(
        10,
        1,
        "A finite stand-in bets on how low real scores are. Which score is never too high?",
        "Try a row in which all is hidden: what is its maximum, and what do you subtract from it?",
    ),
    "test_softmax": Guide(
        15,
        2,
        "Which scores hurt a softmax? Large ones, rows far apart, a row that sees nothing.",
        "Whom do you trust as a judge, in which dtype, and what does it say of a row of -inf?",
    ),
    "joined_by_pencil": Guide(
        5,
        1,
        "Write each block's own m and l first, with the exponentials as whole numbers.",
        "A factor says how large the block's own unit is beside the common one. Which is 1?",
    ),
    "softmax_of_pieces": Guide(
        15,
        2,
        "What two numbers a row must every machine tell the others?",
        "Each piece's weights are in units of its own maximum. Bring them, and the sums, to one.",
    ),
    "stream_softmax": Guide(
        15,
        2,
        "Follow the first part by pencil through two steps: how often is it divided?",
        "Which sum is the row's, and when is it known?",
    ),
    "test_decomposed": Guide(
        15,
        2,
        "How large is a weight among thousands, and what does your tolerance say beside it?",
        "Which block needs a factor that is not 1? And which pair has no maximum at all?",
    ),
    "favourite": Guide(
        20,
        3,
        "The favourite has the score m. What is its fx, and so its softmax?",
        "The index counts from the start of the row: what must you remember of earlier pieces?",
    ),
    "merge": Guide(
        10,
        1,
        "Two sums can be added only in the same unit. Which unit, and who has to change?",
        "l and o are both sums. What if neither has seen a key?",
    ),
    "fold_tree": Guide(
        15,
        2,
        "In one round every state can meet one other. How many are left after it?",
        "With an odd number one has no neighbour. Where must it go so that no round is added?",
    ),
    "merge_parts": Guide(
        15,
        2,
        "Which power in the formula is taken of a large positive number, and when?",
        "Measure both against the larger one. And if both are -inf?",
    ),
    "merge_kernel_parts": Guide(
        10,
        1,
        "If y = log2 x, what is ln x?",
        "Decide in which base you compute, and convert everything to it before the first power.",
    ),
    "unmerge": Guide(
        15,
        3,
        "What undoes an addition? And in which unit do both sums have to be?",
        "m is a reference: must it be the maximum of what is left?",
    ),
    "count_rescales": Guide(
        5,
        1,
        "Which maximum is a block compared with: its neighbour's, or that of all before it?",
        "The first block has nothing before it. Does an equal maximum change anything?",
    ),
    "attend_row": Guide(
        15,
        1,
        "When m grows, l changes its unit. Which other sum was made in the old unit?",
        "What does the loop do before any key was seen, and after none was?",
    ),
    "test_attend": Guide(
        15,
        2,
        "In which order must maxima come for a missing rescaling to show?",
        "Ask also for a hidden first block, for scores far below 0, for a shorter last block.",
    ),
    "attend_lazily": Guide(
        15,
        2,
        "Three numbers belong together: m, l and o. Where does one of them move alone?",
        "What may m be, as long as l and o are measured against it?",
    ),
    "largest_threshold": Guide(
        10,
        2,
        "In the worst case every key weighs e^t. How large is their sum?",
        "Write the condition as e^t ≤ something, and take a logarithm. Up or down?",
    ),
    "standard_peak": Guide(
        5,
        1,
        "Which tensors grow with N², and how many of them are alive at once?",
        "Count the numbers of one of them, over texts and heads; then bytes.",
    ),
    "attention_with_bias": Guide(
        10,
        1,
        "Which term is divided by √d in the formula, and which in the code?",
        "Follow a bias of 1 through the code, with d = 4.",
    ),
    "attention_by_rows": Guide(
        15,
        2,
        "What does one query need? All keys, and which other queries?",
        "Along which dimension do you cut? What is still alive when the next block begins?",
    ),
    "test_gradients": Guide(
        20,
        3,
        "Compare gradients, not outputs: of which three tensors?",
        "Make d larger than 1, to see a lost scale; relate an error to its gradient's size.",
    ),
    "rows_of_k_read": Guide(
        5,
        1,
        "How often does the outer loop turn?",
        "In each turn, how many rows of K pass by? A block that is not full is a turn as well.",
    ),
    "flash2_rows": Guide(
        20,
        2,
        "By pencil, the first block: what is m_old, and what does line 10 do with it?",
        "When m grows, should the old o grow or shrink?",
    ),
    "flash_16bit": Guide(
        15,
        2,
        "What is 256 + 1 in 8 bits? Who adds many small numbers to a large one?",
        "Which dtype holds sums of 16-bit numbers, and which those of float64? When do you round?",
    ),
    "trainable_attention": Guide(
        25,
        3,
        "What does autograd keep of each tile until the backward?",
        "A function under checkpoint keeps its arguments. What should be a function, so that in "
        "the backward only its own tiles come back?",
    ),
    "attention_backward": Guide(
        25,
        3,
        "lse is ln of a sum of e^s. What is its derivative by one s?",
        "Both ways through o and through lse end in ds. Where do they add up?",
    ),
    "causal_mask": Guide(
        5,
        1,
        "At which key does the last query stand? And the first?",
        "If there are more keys than queries, all queries are shifted. By how much?",
    ),
    "tiles_needed": Guide(
        15,
        2,
        "Which query of a block sees most? How many keys is that?",
        "Then how many tiles cover those keys? Mind blocks that see none.",
    ),
    "window_attention": Guide(
        20,
        2,
        "Which rows have a first block in which all is hidden? What is their m then?",
        "-inf minus -inf is the cause. What can be subtracted instead?",
    ),
    "test_masks": Guide(
        20,
        2,
        "Where do top-left and bottom-right differ?",
        "Let causal and padding meet so that a query sees nothing, with real numbers compared.",
    ),
    "sink_attention": Guide(
        25,
        3,
        "Two sets of keys, no key in both: the sinks, and the window over what is left.",
        "The first queries are sinks themselves: what may they see? Then merge by lse.",
    ),
    "flash_peak": Guide(
        5,
        1,
        "What is there after the call that was not there before?",
        "What is there during the call, once for each head, and does it grow with N?",
    ),
    "paper_mib": Guide(
        15,
        2,
        "How large are S and X at the two sizes, in MiB?",
        "Two cells, two unknowns. Do they come out whole?",
    ),
    "test_bfloat16": Guide(
        20,
        3,
        "Who is the judge: another bfloat16 implementation, or float64?",
        "What does one rounding to bfloat16 cost, relative to the answer? Does a long sum need "
        "more keys to go wrong, and a missing key fewer to show?",
    ),
    "largest_N": Guide(
        15,
        2,
        "What must be on the card, in bytes, as a function of N?",
        "2 N² + 3 N d numbers a head: which equation is that?",
    ),
    "own_core": Guide(
        40,
        3,
        "Begin without causal: a state for some queries, a loop over the tape, one division.",
        "Which loop is outside? Count what both orders load. Which blocks may causal leave?",
    ),
    "row_gradients": Guide(
        10,
        1,
        "Which dp does each key have, in fours, and what is their mean by weight?",
        "A score that rises takes weight from all others. What was that weight worth?",
    ),
    "numbers_moved": Guide(
        15,
        2,
        "Draw the grid of tiles. What comes for a column, and what for every tile in it?",
        "Who adds to a sum that lies in the warehouse carries it twice. Which sums lie there?",
    ),
    "tiled_backward": Guide(
        20,
        2,
        "Follow one block of keys: how many tiles have something to say about its dk?",
        "Which of the three gradients belongs to a row of tiles, and which to a column?",
    ),
    "test_backward": Guide(
        20,
        3,
        "How large are the gradients beside your bound? Would a zero pass?",
        "Which input shows a lost sum, a lost scale, a shorter tile?",
    ),
    "shard_backward": Guide(
        20,
        3,
        "In a row of -inf throughout: what is its lse, and what does the power see?",
        "Which lse would make every weight of such a row 0? And which way goes dlse?",
    ),
    "step_parts": Guide(
        15,
        2,
        "Two tables, and in a block four products: how large is each matrix?",
        "A product keeps what it was given, for its weights' gradient. What does GELU keep?",
    ),
    "next_losses": Guide(
        10,
        1,
        "Four letters of a passage: which may the model see at place 2, which is it asked for?",
        "There is one answer less than there are characters.",
    ),
    "test_causal": Guide(
        15,
        2,
        "What can change at place 5 when the text is changed from place 6 on?",
        "A look ahead may be one character long, or end where a tile does. Where do you cut?",
    ),
    "test_core": Guide(
        20,
        3,
        "How far do two right cores part in float32, and how far in float64?",
        "When does a wrong gradient first show in a loss?",
    ),
    "largest_context": Guide(
        15,
        2,
        "Three points and a parabola: which of its three numbers does each core have?",
        "Between equal steps of N, how do bytes grow, and how does that growth grow?",
    ),
}
