"""Exercises: the checks bite, name the mistake, and survive whatever is handed to them."""

import ast
import contextlib
import inspect
import re
import sys
import textwrap
import threading

import nbformat
import pytest
import torch

from attnlib import SoftmaxState
from attnlib.course.__main__ import main
from attnlib.course.exercises import (
    TASKS,
    check,
    hint,
    hints,
    pointers,
    progress,
    students,
    verdict,
)
from attnlib.course.exercises import attempt as attempts
from attnlib.course.exercises import matrix as kills
from attnlib.course.exercises.pointers import SECTIONS
from attnlib.course.publish import notebooks

LESSONS = {p.stem: nbformat.read(p, 4) for p in notebooks.lessons()}
SOLUTIONS = {p.stem: nbformat.read(p, 4) for p in sorted(students.SOLUTIONS.glob("*.ipynb"))}
STUDENTS = {p.stem: nbformat.read(p, 4) for p in sorted(students.STUDENTS.glob("*.ipynb"))}
NAME = pytest.mark.parametrize("name", SOLUTIONS)
TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def graded(notebook, key):
    return [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get(key)]


def text(cell):
    """What a cell says: a student's shows its verdict, a solved one prints it."""
    said, *points = cell.outputs
    assert len(points) == (said.output_type == "stream")
    return said.text if points else said.data["text/plain"]


# The kill matrix -----------------------------------------------------------


@pytest.fixture(scope="module")
def matrix():
    return kills.matrix()


@pytest.mark.slow
def test_every_mistake_is_killed_and_named(matrix):
    wrong = [row for row in matrix if row["named"] is not None]
    assert len(wrong) > 100
    assert not [row for row in wrong if row["passed"] or not row["named"]]


@pytest.mark.slow
def test_every_right_variant_passes(matrix):
    right = [row for row in matrix if row["named"] is None]
    assert len(right) > 40 and all(row["passed"] for row in right)


@TASK
def test_a_task_has_mistakes_and_more_than_one_right_way(task):
    assert len(task.mistakes) >= 3 and task.variants
    assert len({m.when for m in task.mistakes}) == len(task.mistakes)


@pytest.mark.slow
def test_the_matrix_is_printed_and_is_the_exit_code(capsys, monkeypatch, matrix):
    monkeypatch.setattr(kills, "matrix", lambda: matrix)
    assert main(["exercises", "--matrix"]) == 0
    assert "mistakes killed" in capsys.readouterr().out
    monkeypatch.setattr(kills, "matrix", lambda: [matrix[0] | {"good": False}])
    assert main(["exercises", "--matrix"]) == 1


# What a verdict says -------------------------------------------------------


def test_a_verdict_says_input_what_came_what_was_expected_and_the_mistake():
    def merge(a, b):
        state = a.merge(b)
        return state._replace(o=a.o + b.o)

    said = repr(check(merge))
    for words in (
        "wrong on 10 of 14 inputs",
        "input     ln 1, ln 2 and ln 4, ln 1: a = (m =",
        "came      o / l = [",
        "expected  o / l = [0.4168, -0.7645]",
        "This is what comes out when o is not rescaled",
        "See lesson 03, “The values join”",
    ):
        assert words in said, said


def test_a_mistake_that_explains_some_inputs_says_how_many():
    def merge(a, b):
        m = torch.maximum(a.m, b.m)
        fa, fb = torch.exp(a.m - m), torch.exp(b.m - m)
        return SoftmaxState(m, fa * a.l + fb * b.l, a.o + b.o)

    verdict = check(merge)
    assert [mistake.run.__name__ for mistake in verdict.mistakes] == ["merge_o_unscaled"]
    assert "In 10 of 11 wrong inputs this is what comes out when o is not" in repr(verdict)


def test_a_mistake_that_explains_less_than_half_is_not_named():
    def merge(a, b):
        state = a.merge(b)
        return state if (a.m > b.m).all() else SoftmaxState(state.m, 2 * state.l, 3 * state.o)

    assert not check(merge).mistakes


def test_a_mistake_that_would_be_wrong_where_the_learner_is_right_is_not_named():
    def causal_mask(Nq, Nk):
        return torch.ones(Nq, Nk, dtype=torch.bool).tril(max(Nk - Nq, 0))

    verdict = check(causal_mask)
    assert "wrong on 2 of 6" in repr(verdict) and not verdict.mistakes


def test_an_unknown_mistake_is_not_given_a_name():
    verdict = check(lambda x: torch.logsumexp(x, -1) * 1.25, "log_sum_exp")
    assert not verdict.passed and not verdict.mistakes
    assert "came" in repr(verdict) and "comes out when" not in repr(verdict)


@pytest.mark.parametrize("name", [task.name for task in TASKS.values() if task.secret])
def test_a_verdict_keeps_a_secret(name):
    for mistake in TASKS[name].mistakes:
        verdict = check(mistake.run, name)
        assert "expected" not in repr(verdict) + verdict._repr_html_()
    assert re.search("too (small|large)", repr(verdict))


def test_a_test_is_told_what_it_lets_through_and_what_it_rejects():
    def test_softmax(softmax):
        x = torch.randn(2, 3)
        assert torch.equal(softmax(x), torch.zeros(2, 3))

    said = repr(check(test_softmax))
    assert said.count("\n  rejects") == 4 and "lets through" not in said
    assert "What it rejects is right." in said and "it raised AssertionError" in said
    said = repr(check(lambda softmax: None, "test_softmax"))
    assert said.count("lets through  one") == 5 and "rejects" not in said


def test_a_number_that_is_equal_by_chance_is_not_named():
    def tiles_needed(Nq, Nk, block_size):
        return TASKS["tiles_needed"].all_cases()["one tile"].expected

    assert not check(tiles_needed).mistakes


def in_place(x):
    x -= x.amax(-1, keepdim=True)
    return x.exp().sum(-1).log()


def raises(x):
    return x.no_such_thing()


def loops(x):
    while True:
        with contextlib.suppress(Exception):
            x = x + 1


@pytest.mark.parametrize(
    "f, said",
    [
        (lambda x: None, "It returned None: is there a return?"),
        (lambda x: 1.5, "The answer is of type float, expected a tensor."),
        (lambda x: x, "The answer has shape (3,), expected ()."),
        (lambda x: x.double().logsumexp(-1), "torch.float64, expected torch.float32"),
        (in_place, "It changed its input x in place"),
        (raises, "AttributeError: 'Tensor' object has no attribute 'no_such_thing', in line"),
        (raises, ": return x.no_such_thing()"),
        (lambda: 1, "takes 0 positional arguments but 1 was given"),
        (lambda x: exit(), "It raised SystemExit"),
    ],
)
def test_whatever_a_function_does_is_a_sentence(f, said):
    verdict = check(f, "log_sum_exp")
    assert not verdict.passed and said in repr(verdict)
    assert said.split("'")[0] in verdict._repr_html_().replace("&#x27;", "'")


@pytest.mark.parametrize("in_thread", [False, True])
def test_an_endless_loop_is_stopped(in_thread, monkeypatch):
    monkeypatch.setattr(attempts, "SECONDS", 0.2)
    verdicts = []
    worker = threading.Thread(target=lambda: verdicts.append(check(loops, "log_sum_exp")))
    if in_thread:
        worker.start()
        worker.join(5)
    else:
        verdicts.append(check(loops, "log_sum_exp"))
    assert "does not come to an end" in repr(verdicts[0])
    assert "is there an endless loop?" in repr(verdicts[0])


def test_the_clock_of_whoever_else_uses_it_runs_on():
    import signal

    if not hasattr(signal, "setitimer"):
        pytest.skip("no timers here")
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 60)
    check(raises, "log_sum_exp")
    assert 50 < signal.setitimer(signal.ITIMER_REAL, 0)[0] <= 60
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("f", [3, None, "merge", torch.exp, print, lambda x: x])
def test_what_is_no_exercise_is_a_sentence_too(f):
    assert not check(f).passed and repr(check(f)).startswith("✗")
    assert "✗" in check(f)._repr_html_()


def test_an_exception_of_a_stub_is_no_mistake():
    def merge(a, b):
        raise NotImplementedError()

    assert repr(check(merge)) == "○ merge: not attempted yet"
    assert check(merge).status == verdict.NOT_YET


def test_code_that_ends_in_the_stubs_raise_is_told_so():
    def log_sum_exp(x):
        y = torch.logsumexp(x, -1)
        print(y)
        raise NotImplementedError()

    assert "ends in the stub's own line" in repr(check(log_sum_exp))


def test_what_a_function_prints_is_cut(capsys):
    def log_sum_exp(x):
        for n in range(40):
            print("line", n)
        return torch.logsumexp(x, -1)

    assert check(log_sum_exp).passed
    out = capsys.readouterr().out
    assert out.count("line") == 100 and out.count("left out") == 1


def test_a_syntax_error_is_not_followed_by_a_pass_of_the_old_function():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.run_cell("import torch\nfrom attnlib.course.exercises import check")
        shell.run_cell("def log_sum_exp(x):\n    return torch.logsumexp(x, -1)", store_history=True)
        assert shell.run_cell("check(log_sum_exp).passed", store_history=True).result
        shell.run_cell("def log_sum_exp(x):\n    return torch.exp(x", store_history=True)
        said = repr(shell.run_cell("check(log_sum_exp)", store_history=True).result)
    finally:
        InteractiveShell.clear_instance()
    assert said.startswith("✗ log_sum_exp: its cell did not run: '(' was never closed, in line 2")


def test_what_a_cell_has_set_does_not_reach_the_checks(monkeypatch):
    monkeypatch.setattr(torch, "softmax", lambda *_: 1 / 0)
    monkeypatch.setattr(torch, "exp", torch.exp2)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.no_grad():
            for name in ("attention_by_rows", "trainable_attention", "merge"):
                for variant in TASKS[name].variants.values():
                    assert check(variant, name).passed
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    with pytest.raises(ZeroDivisionError):
        torch.softmax(1)


def test_a_check_leaves_the_learners_random_numbers_alone():
    torch.manual_seed(3)
    check(lambda x: torch.rand(3), "log_sum_exp")
    came = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(came, torch.rand(3))


def test_a_check_that_a_cell_has_replaced_is_found_afresh(monkeypatch):
    import attnlib.course.exercises as ours
    from attnlib.course.exercises.state import afresh

    modules = dict(sys.modules)
    monkeypatch.setattr(ours, "check", lambda *_: "cheated")
    try:
        assert afresh()(lambda x: x, "log_sum_exp").points == 0
    finally:
        sys.modules.update(modules)


@pytest.mark.parametrize("name, share", [("flash2_rows", 0.5), ("attention_backward", 1 / 3)])
def test_an_answer_with_parts_earns_the_parts_that_are_right(name, share):
    right = next(iter(TASKS[name].variants.values()))

    def first_part_wrong(*args):
        first, *others = right(*args)
        return 2 * first, *others

    def last_part_right(*args):
        *others, last = right(*args)
        return *(2 * x for x in others), last

    assert check(first_part_wrong, name).share == 1 - share if name == "flash2_rows" else True
    verdict = check(last_part_right, name)
    assert verdict.share == pytest.approx(share) and not verdict.passed
    assert verdict.points == round(share * TASKS[name].points, 2)


def test_points_are_whole_for_right_and_none_for_wrong_without_parts():
    assert check(torch.logsumexp, "log_sum_exp").points == 0
    assert check(lambda x: torch.logsumexp(x, -1), "log_sum_exp").points == 2
    assert check(lambda softmax: None, "test_softmax").points == 0


def test_a_test_that_changes_its_mind_is_told_so():
    def test_softmax(softmax, calls=[0]):  # noqa: B006
        calls[0] += 1
        assert calls[0] <= 4

    assert "Asked twice about the same code" in repr(check(test_softmax))


def test_a_test_that_says_no_by_a_crash_is_told_so():
    right = TASKS["test_softmax"].variants["by laws alone"]

    def test_softmax(softmax):
        try:
            right(softmax)
        except AssertionError:
            raise KeyError("no") from None

    verdict = check(test_softmax)
    assert verdict.passed and "it says no by crashing: KeyError" in repr(verdict)


def test_numbers_cannot_leave_the_books():
    def attention_by_rows(q, k, v, rows):
        return torch.softmax(torch.tensor(q.tolist()) @ k.mT / q.shape[-1] ** 0.5, -1) @ v

    assert "It leaves torch by numpy or lists" in repr(check(attention_by_rows))


@pytest.mark.parametrize("name", ["attend_row", "attend_lazily"])
def test_a_whole_row_at_once_is_refused_where_a_loop_is_asked_for(name):
    def in_one_line(s, v, *rest):
        return torch.softmax(s, -1).nan_to_num(0.0) @ v

    assert "of a row through softmax at once" in repr(check(in_one_line, name))


def test_the_capstone_shows_what_was_reached_beside_the_classic_loop():
    said = repr(check(TASKS["own_core"].variants["queries outside"], "own_core"))
    assert re.search(
        r"blocks of scores at the peak +5\.\d+ \(the classic loop: 5\.\d; at most 40", said
    )
    assert re.search(r"numbers loaded +(\d+) \(the classic loop: \1; at most \1\)", said)


# Hints ---------------------------------------------------------------------


def test_hints_come_one_after_the_other_and_the_last_names_the_lesson():
    hints._given.clear()
    first, second, third, again = (hint("merge") for _ in range(4))
    assert [repr(x)[:11] for x in (first, second, third)] == [f"Hint {n} of 3" for n in (1, 2, 3)]
    assert repr(third) == repr(again) and pointers.words(TASKS["merge"].see) in repr(third)
    assert '<a href="../03_one_fold.ipynb#' in third._repr_html_()
    assert "No exercise" in repr(hint("nothing"))


def test_every_exercise_has_its_hints_and_none_has_a_line_of_the_solution():
    assert set(hints.GUIDES) == set(TASKS)
    lines = {line for line in students.solution_lines() if len(line) > 12}
    for guide in hints.GUIDES.values():
        assert 5 <= guide.minutes <= 40 and guide.level in (1, 2, 3)
        assert not [line for line in lines if line in guide.first + guide.second]


@NAME
def test_a_notebook_says_how_long_and_how_hard(name):
    heads = [c.source for c in SOLUTIONS[name].cells if re.match(r"## \d\. ", c.source)]
    tasks = [task.name for task in TASKS.values() if task.lesson == name[:2]]
    for head, task in zip(heads, tasks, strict=True):
        assert head.split("\n\n")[1] == f"*{hints.GUIDES[task]}*"


def test_progress_knows_what_the_functions_are_now():
    def merge(a, b):
        return a.merge(b)

    namespace = {"merge": merge, "fold_tree": 7}
    card = progress("03", namespace)
    assert card.headline == "Lesson 03: 1 of 5 exercises pass"
    assert repr(card).count("not run yet") == 4
    namespace["merge"] = lambda a, b: a
    assert progress("03", namespace).headline == "Lesson 03: 0 of 5 exercises pass"


# Pointers ------------------------------------------------------------------


@pytest.mark.parametrize("key", SECTIONS)
def test_a_section_is_a_cell_of_its_lesson_that_starts_with_a_heading(key):
    lesson, cell = SECTIONS[key]
    (found,) = [c for c in LESSONS[lesson].cells if c.id == cell]
    assert found.cell_type == "markdown" and found.source.startswith("#")
    heading = found.source.splitlines()[0].lstrip("# ")
    assert heading in pointers.words(key)
    assert pointers.link(key).startswith(f'<a href="../{lesson}.ipynb#')


def test_without_its_notebook_a_link_names_the_lesson_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(pointers, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(pointers, "headings", pointers.headings.__wrapped__)
    assert pointers.words("merge") == "lesson 03"
    assert pointers.link("merge") == '<a href="../03_one_fold.ipynb">lesson 03</a>'


@TASK
def test_no_pointer_points_ahead(task):
    for key in (task.see, *(mistake.see for mistake in task.mistakes)):
        assert SECTIONS[key][0][:2] <= task.lesson, key


@pytest.mark.parametrize("name", [n for n in LESSONS if n in SOLUTIONS])
def test_a_lesson_links_to_its_exercises(name):
    source = "".join(c.source for c in LESSONS[name].cells)
    assert f"(exercises/{name}.ipynb)" in source


# The notebooks -------------------------------------------------------------


@NAME
def test_students_get_what_the_solutions_make(name):
    made, committed = students.student_version(SOLUTIONS[name]), STUDENTS[name]
    assert [(c.id, c.source, c.metadata) for c in made.cells] == [
        (c.id, c.source, c.metadata) for c in committed.cells
    ]
    assert set(STUDENTS) == set(SOLUTIONS)


@NAME
def test_every_solution_passes_and_every_stub_is_not_attempted(name):
    for solved, stub in zip(graded(SOLUTIONS[name], "grade"), graded(STUDENTS[name], "grade")):
        assert text(solved).startswith("✓")
        assert text(stub).endswith(": not attempted yet")
    assert re.match(r"Lesson \d\d: (\d) of \1 exercises pass", text(SOLUTIONS[name].cells[-2]))


@NAME
def test_every_task_of_a_lesson_has_its_two_cells(name):
    tasks = [task for task in TASKS.values() if task.lesson == name[:2]]
    solve, grade = graded(SOLUTIONS[name], "solution"), graded(SOLUTIONS[name], "grade")
    assert 3 <= len(tasks) == len(solve) == len(grade) <= 5
    for task, a, b in zip(tasks, solve, grade):
        assert a.source.startswith(f"def {task.name}(") and "### BEGIN SOLUTION" in a.source
        assert b.source == students.GRADE.format(task.name)
        assert b.metadata.nbgrader.points == task.points
        assert float(b.outputs[-1].data["text/plain"]) == task.points


@NAME
def test_nbgrader_metadata_is_whole(name):
    found = [c.metadata.nbgrader for c in SOLUTIONS[name].cells if "nbgrader" in c.metadata]
    keys = {"schema_version", "grade", "grade_id", "locked", "solution", "task"}
    assert all(keys <= set(x) and x.schema_version == 3 for x in found)
    assert len({x.grade_id for x in found}) == len(found)


def bare(function) -> str:
    function.name, function.decorator_list = "f", []
    return re.sub(r"'pieces'|'xs'", "'xs'", ast.dump(function))


ROLES = {  # of the project's list of mistakes: how the exercises use each
    "M1": "mend",
    "M2": "mend",
    "M3": "right",
    "M4": "mend",
    "M5": "predict",
    "M6": "mend",
    "M7": "mend",
    "M8": "mend",
    "M9": "test",
    "M10": "mend",
    "M11": "predict",
    "M12": "mend",
    "M13": "mend",
    "M14": "mend",
    "M15": "test",
    "M16": "mend",
    "M17": "mend",
    "M18": "mend",
}


@pytest.mark.parametrize("fact, role", ROLES.items())
def test_every_known_mistake_has_its_role(fact, role):
    met = [(task, m) for task in TASKS.values() for m in task.mistakes if m.fact == fact]
    right = [name for task in TASKS.values() for name in task.variants]
    roles = {
        "mend": any(m.shown for _, m in met),
        "test": any(task.is_test for task, _ in met),
        "predict": any(task.title.startswith("Predict") for task, _ in met),
        "right": any(name.startswith(f"{fact}:") for name in right),
    }
    assert roles[role]


def test_the_right_half_of_lazy_rescaling_passes():
    names = [name for task in TASKS.values() for name in task.variants]
    assert sum(name.startswith("M4:") for name in names) >= 2


@pytest.mark.skipif(not SOLUTIONS, reason="the solutions are not in this copy of the course")
def test_broken_code_is_one_of_the_mistakes_that_the_check_knows():
    shown = {
        bare(ast.parse(textwrap.dedent(inspect.getsource(m.run))).body[0])
        for task in TASKS.values()
        for m in task.mistakes
        if m.shown
    }
    cells = [
        c for n in SOLUTIONS.values() for c in n.cells if "as-it-came" in c.metadata.get("tags", [])
    ]
    assert {bare(ast.parse(c.source).body[0]) for c in cells} == shown
    assert len(cells) == len(shown) >= 5


@NAME
def test_exercise_prose_and_code_keep_the_style(name):
    for cell in SOLUTIONS[name].cells:
        words = re.sub(r"\]\([^)]*\)", "]", cell.source).split()
        if cell.cell_type == "markdown":
            assert len(words) <= 90, cell.source
            assert not {"simply", "just", "obviously"} & {w.lower().strip(".,") for w in words}
        else:
            assert len(cell.source.splitlines()) <= 32, cell.source
            assert max(map(len, cell.source.splitlines())) <= 72, cell.source


@NAME
def test_exercise_links_exist(name):
    lessons = {lesson for lesson, _ in SECTIONS.values()}  # there, or on their way
    for cell in SOLUTIONS[name].cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
            known = (students.SOLUTIONS / target).resolve().name
            assert target.startswith("https://") or known[:-6] in lessons, target
