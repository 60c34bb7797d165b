"""The small values that flows and adapters make: nobody changes one that somebody else holds."""

import pytest
from phr_refresh.adapters import ports
from phr_refresh.statemachine import effects, lifecycle, policy, table
from phr_refresh.statemachine.values import Value

MODULES = (effects, lifecycle, policy, table, ports)
KINDS = sorted(
    {
        kind
        for module in MODULES
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Value) and kind is not Value
    },
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_value_is_frozen(kind: type[Value]) -> None:
    """Each kind says so itself, which msgspec asks of every subclass."""
    assert kind.__struct_config__.frozen


def test_setting_a_field_of_a_value_is_an_error() -> None:
    """It is said at once, and changes nothing."""
    load = effects.Load("a")
    with pytest.raises(AttributeError):
        load.key = "b"  # type: ignore[misc]
    assert "a" == load.key


def test_values_with_the_same_fields_are_equal() -> None:
    """And are found in sets and dicts by what they hold."""
    assert effects.Load("a") == effects.Load("a")
    assert 1 == len({effects.Load("a"), effects.Load("a")})
    assert effects.Load("a") != effects.Load("a", with_token=True)


def test_a_bundle_is_not_shown() -> None:
    """Records are a patient's: their `repr` tells how many there are, and nothing else (rule R7)."""
    assert "Records(<bundle withheld>, total=3)" == repr(effects.Records({"id": "1012345678V123456"}, 3))
    row = ports.Row(b"a record", "01234567", 5, b"a token")
    assert "Row(<8 bytes>, version='01234567', now=5)" == repr(row)
