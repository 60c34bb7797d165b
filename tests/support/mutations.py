"""Mutations: the small faults that one could make in a module, each as the module's code with that one fault in it."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from inspect import CO_VARARGS
from itertools import takewhile
from types import CodeType, FunctionType, ModuleType
from typing import Any

_PAIRS = [
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)),
    *((ast.And, ast.Or), (ast.Add, ast.Sub), (ast.BitOr, ast.BitAnd), (ast.Break, ast.Continue)),
    *((ast.Mult, ast.FloorDiv), (ast.Div, ast.Mult), (ast.Mod, ast.Mult), (ast.LShift, ast.RShift)),
]
_SWAPS: dict[type[ast.AST], type[ast.AST]] = dict([*(pair[::-1] for pair in _PAIRS), *_PAIRS])
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
#: What only the type checker or a reader sees.
_UNSEEN = {"annotation", "returns", "decorator_list", "format_spec", "ctx", "names"}


@dataclass(frozen=True)
class Mutant:
    """`code` is the whole module's. `scope` is the outermost function around the fault, None where it is in none."""

    module: str
    scope: str | None
    lines: range
    text: str
    code: CodeType


@dataclass(frozen=True)
class _Place:
    """Where a node stands. `path` names the classes around it."""

    parent: ast.AST
    field: str = ""
    index: int | None = None
    path: str = ""
    scope: str | None = None
    statement: ast.stmt | None = None

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def mutants(module: ModuleType, source: str) -> Iterator[Mutant]:
    """Every mutant of `module`, in the order of its text."""
    tree = ast.parse(source)
    for place, node in list(_places(_Place(tree), tree)):
        for new in _variants(node, vars(module)):
            place.put(ast.fix_missing_locations(ast.copy_location(new, node)))
            text = _difference(ast.unparse(node), ast.unparse(new))
            code = compile(tree, module.__file__ or "", "exec")
            place.put(node)
            assert place.statement
            yield Mutant(module.__name__, place.scope, _lines(place.statement), text, code)


def _places(at: _Place, node: ast.AST) -> Iterator[tuple[_Place, ast.AST]]:
    for field, value in ast.iter_fields(node):
        if field in _UNSEEN:
            continue
        scope = at.scope
        if isinstance(node, ast.FunctionDef) and field == "body":
            scope = scope or at.path + node.name
        path = f"{at.path}{node.name}." if isinstance(node, ast.ClassDef) else at.path
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or _is_unseen(node, child):
                continue
            statement = child if isinstance(child, ast.stmt) else at.statement
            place = _Place(node, field, index if isinstance(value, list) else None, path, scope, statement)
            yield place, child
            yield from _places(place, child)


def _is_unseen(parent: ast.AST, node: ast.AST) -> bool:
    match node:
        case ast.Expr(ast.Constant()) | ast.Call(ast.Name("cast")) | ast.Assign([ast.Name("__slots__")]):
            return True
        # The name of a type, as its capitals tell: only annotations read it.
        case ast.Assign(value=ast.Call(ast.Name("TypeVar"))):
            return True
        case ast.Assign([ast.Name(name)], ast.Subscript() | ast.BinOp()) if name[0].isupper() and not name.isupper():
            return True
    return isinstance(parent, ast.JoinedStr) and isinstance(node, ast.Constant)


def _difference(old: str, new: str) -> str:
    """What differs, with a few words around it."""
    old, new = (" ".join(text.split()) for text in (old, new))
    left = _alike(old, new)
    right = min(_alike(old[::-1], new[::-1]), len(old) - left, len(new) - left)
    begin = old.rfind(" ", 0, max(left - 12, 0)) + 1
    ends = [text.find(" ", len(text) - right + 12) for text in (old, new)]
    shown = [text[begin : end if end > 0 else None] for text, end in zip((old, new), ends, strict=True)]
    return " -> ".join(shown)


def _alike(one: str, other: str) -> int:
    """So many characters at their beginning are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _lines(statement: ast.stmt) -> range:
    """The lines of a statement without those of its body."""
    last = statement.end_lineno or statement.lineno
    match statement:
        case ast.Match(cases=[first, *_]):
            last = first.pattern.lineno - 1
        case ast.If() | ast.For() | ast.While() | ast.With() | ast.Try() | ast.FunctionDef() | ast.ClassDef():
            last = statement.body[0].lineno - 1
    return range(statement.lineno, max(last, statement.lineno) + 1)


def _variants(node: ast.AST, names: Mapping[str, Any]) -> Iterator[ast.AST]:
    if isinstance(node, ast.stmt):
        yield from _other_statements(node)
    elif isinstance(node, ast.expr):
        yield from _other_expressions(node, names)
        yield from _without_a_part(node, names)
    elif isinstance(node, ast.comprehension) and node.ifs:
        yield _but(node, ifs=[])


def _but(node: ast.AST, **fields: Any) -> Any:
    """A copy with some fields changed."""
    return type(node)(**dict(ast.iter_fields(node)) | fields)


def _none() -> ast.Constant:
    return ast.Constant(None)


def _other_statements(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.Expr() | ast.AugAssign() | ast.Raise():
            yield ast.Pass()
        # Not so where there is an annotation: the type checker sees that.
        case ast.Assign(value=value):
            yield _but(node, value=ast.Constant("") if _is_none(value) else _none())
        case ast.Return(ast.expr() as value) if not _is_none(value):
            yield ast.Return(_none())
        case ast.Break() | ast.Continue():
            yield _SWAPS[type(node)]()
        case ast.If(test=test) | ast.While(test=test):
            yield _but(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Match(cases=cases) if len(cases) > 1:
            yield from (_but(node, cases=cases[:i] + cases[i + 1 :]) for i in range(len(cases)))
        case ast.For():
            yield _but(node, iter=ast.Tuple([], ast.Load()))


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _other_expressions(node: ast.expr, names: Mapping[str, Any]) -> Iterator[ast.expr]:
    match node:
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(str() as value):
            yield ast.Constant(f"XX{value}")
        case ast.Compare(ops=ops):
            yield from (_but(node, ops=[*ops[:i], _SWAPS[type(op)](), *ops[i + 1 :]]) for i, op in enumerate(ops))
        case ast.BinOp(op=op) if type(op) in _SWAPS:
            yield _but(node, op=_SWAPS[type(op)]())
        case ast.BoolOp(op=op):
            yield _but(node, op=_SWAPS[type(op)]())
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.Name(name, ast.Load()) if name in _NAMES:
            yield ast.Name(_NAMES[name], ast.Load())
        case ast.Name(name, ast.Load()) if isinstance(names.get(name), Enum):
            others = [other for other, value in names.items() if isinstance(value, type(names[name]))]
            yield ast.Name(others[(others.index(name) + 1) % len(others)], ast.Load())
        case ast.Attribute(ast.Name(name), member) if isinstance(names.get(name), type(Enum)) and member.isupper():
            others = list(names[name].__members__)
            yield _but(node, attr=others[(others.index(member) + 1) % len(others)])


def _without_a_part(node: ast.expr, names: Mapping[str, Any]) -> Iterator[ast.expr]:
    match node:
        case ast.BoolOp(values=values):
            for i in range(len(values)):
                rest = values[:i] + values[i + 1 :]
                yield _but(node, values=rest) if len(rest) > 1 else rest[0]
        case ast.Tuple(elts, ast.Load()) | ast.List(elts, ast.Load()) | ast.Set(elts):
            if not isinstance(node, ast.Set) or len(elts) > 1:
                yield from (_but(node, elts=elts[:i] + elts[i + 1 :]) for i in range(len(elts)))
        case ast.Dict(keys, values):
            for i in range(len(keys)):
                yield _but(node, keys=keys[:i] + keys[i + 1 :], values=values[:i] + values[i + 1 :])
        case ast.Call(func, args, keywords):
            for i, arg in enumerate(args):
                if not isinstance(arg, ast.Starred) and not _is_none(arg):
                    yield _but(node, args=[*args[:i], _none(), *args[i + 1 :]])
                if len(args) > 1 and _takes_any_number(func, names):
                    yield _but(node, args=args[:i] + args[i + 1 :])
            yield from (_but(node, keywords=keywords[:i] + keywords[i + 1 :]) for i in range(len(keywords)))


def _takes_any_number(function: ast.expr, names: Mapping[str, Any]) -> bool:
    name = function.id if isinstance(function, ast.Name) else ""
    found = names.get(name)
    return name in _NAMES or (isinstance(found, FunctionType) and bool(found.__code__.co_flags & CO_VARARGS))
