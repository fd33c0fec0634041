"""Page contexts against templates: a page gets every name that its template reads, and no other.

A name that a context lacks is an error when the page is shown, and only then; a field that no template
reads is a query for nothing. Which template belongs to which context is read from the calls of `render`.
"""

import ast
import importlib
import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest
from jinja2 import DictLoader, Environment, meta, nodes

from app.settings import CHECKOUT
from app.web.templates import PageContext, create_templates

ENVIRONMENT = create_templates().env
# What a template may read though no context has it: the framework's, and what a macro gets from its call.
GIVEN = {"request", "caller", "kwargs"}


def read_names(template: str, environment: Environment = ENVIRONMENT) -> set[str]:
    """What a template and those that it extends, includes and imports read and do not set themselves."""
    assert environment.loader
    source = environment.loader.get_source(environment, template)[0]
    tree = environment.parse(source)
    # What is set outside of a block or inside of a condition, jinja2.meta takes for a name of the context.
    own = {node.target for node in tree.find_all(nodes.Import)}
    own |= {node.name for node in tree.find_all(nodes.Macro)}
    for node in tree.find_all(nodes.FromImport):
        own |= {name if isinstance(name, str) else name[1] for name in node.names}
    targets = [node.target for node in tree.find_all(nodes.Assign)]
    targets += [node.target for node in tree.find_all(nodes.AssignBlock)]
    for target in targets:
        parts = [target, *target.find_all(nodes.Name)]
        own |= {part.name for part in parts if isinstance(part, nodes.Name)}
    names = meta.find_undeclared_variables(tree) - own - GIVEN - set(environment.globals)
    for other in meta.find_referenced_templates(tree):
        assert other, f"{template} names a template that is known only when it is shown"
        names |= read_names(other, environment)
    return names


def compare(context: type[PageContext], templates: set[str], environment: Environment) -> list[str]:
    """What is wrong between a context and the templates that are shown with it."""
    given = {field.name for field in fields(context)}
    wrong = []
    read: set[str] = set()
    for template in sorted(templates):
        names = read_names(template, environment)
        wrong += [f"{template} reads {name}" for name in sorted(names - given)]
        read |= names
    # A fragment has no head to show its title in, nor a form to mark a field of.
    shared = {field.name for field in fields(PageContext)}
    return wrong + [f"nothing reads {name}" for name in sorted(given - read - shared)]


def list_values(node: ast.expr, function: ast.AST) -> list[ast.expr]:
    """The expressions that an argument may stand for: a choice is two, a name is what is set."""
    if isinstance(node, ast.IfExp):
        return [*list_values(node.body, function), *list_values(node.orelse, function)]
    if isinstance(node, ast.Await):
        return list_values(node.value, function)
    if isinstance(node, ast.Name):
        found = [
            value
            for each in ast.walk(function)
            if isinstance(each, ast.Assign)
            and any(
                isinstance(target, ast.Name) and target.id == node.id for target in each.targets
            )
            for value in list_values(each.value, function)
        ]
        return found or [node]
    return [node]


def list_templates(node: ast.expr, function: ast.AST) -> list[str]:
    """The templates that an argument may name."""
    names = []
    for value in list_values(node, function):
        if isinstance(value, ast.Constant):
            names.append(str(value.value))
        elif isinstance(value, ast.JoinedStr):
            whole = [""]
            for part in value.values:
                inner = part.value if isinstance(part, ast.FormattedValue) else part
                whole = [text + end for text in whole for end in list_templates(inner, function)]
            names += whole
        else:
            raise AssertionError(f"which template is {ast.unparse(value)}?")
    return names


def find_contexts(
    node: ast.expr, function: ast.FunctionDef | ast.AsyncFunctionDef, module: ModuleType
) -> Iterator[type[PageContext]]:
    """The classes that an argument may be of: what is called makes one, or says what it returns."""
    for value in list_values(node, function):
        context: type
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            called = getattr(module, value.func.id)
            context = called if inspect.isclass(called) else get_type_hints(called)["return"]
        elif isinstance(value, ast.Name):
            context = get_type_hints(getattr(module, function.name))[value.id]
        else:
            raise AssertionError(f"which context is {ast.unparse(value)}?")
        assert issubclass(context, PageContext)
        yield context


def find_pages() -> dict[type[PageContext], set[str]]:
    """Every context of the application, and the templates that it is shown with."""
    pages: dict[type[PageContext], set[str]] = defaultdict(set)
    for file in sorted((CHECKOUT / "app").rglob("*.py")):
        tree = ast.parse(file.read_text())
        name = ".".join(file.relative_to(CHECKOUT).with_suffix("").parts)
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for call in ast.walk(function):
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                    continue
                if call.func.id != "render" or len(call.args) != 3:
                    continue
                for context in find_contexts(call.args[2], function, importlib.import_module(name)):
                    pages[context] |= set(list_templates(call.args[1], function))
    return pages


PAGES = find_pages()


@pytest.mark.parametrize("context", sorted(PAGES, key=str))
def test_a_page_gets_what_its_template_reads_and_nothing_else(context: type[PageContext]) -> None:
    assert compare(context, PAGES[context], ENVIRONMENT) == []


def test_every_template_is_of_some_page() -> None:
    seen = {name for names in PAGES.values() for name in names}
    waiting = list(seen)
    while waiting:
        assert ENVIRONMENT.loader
        source = ENVIRONMENT.loader.get_source(ENVIRONMENT, waiting.pop())[0]
        others = set(meta.find_referenced_templates(ENVIRONMENT.parse(source))) - seen
        seen |= {other for other in others if other}
        waiting += [other for other in others if other]
    folder = CHECKOUT / "templates"
    assert seen == {str(Path(file).relative_to(folder)) for file in folder.rglob("*.html")}


def test_a_name_too_few_and_one_too_many_are_found() -> None:
    page = next(each for each in PAGES if each.__name__ == "ErrorPage")
    known = {field.name for field in fields(page)}
    whole = "".join(f"{{{{ {name} }}}}" for name in sorted(known))
    loader = DictLoader(
        {
            "whole.html": f"{{% set own = 1 %}}{whole}{{{{ own }}}}",
            "more.html": '{% include "whole.html" %}{{ messages }}',
            "less.html": whole.replace("{{ message }}", ""),
        }
    )
    environment = Environment(loader=loader, autoescape=True)
    assert compare(page, {"whole.html"}, environment) == []
    assert compare(page, {"more.html"}, environment) == ["more.html reads messages"]
    assert compare(page, {"less.html"}, environment) == ["nothing reads message"]
