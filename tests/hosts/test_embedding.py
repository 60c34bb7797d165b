"""The settings block of every host: what it may hold, and what it says of a wrong one."""

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from phr_refresh import ConfigurationError, Patient, Policy
from phr_refresh.adapters.simulator import Simulator
from phr_refresh.adapters.stores.memory import MemoryStore
from phr_refresh.adapters.upstream.settings import MhvSettings
from phr_refresh.embedding import Embedding
from phr_refresh.statemachine.effects import Load
from support.fakes import ScriptedUpstream
from support.samples import ADA

SECRET = "canary-app-token"


def patient_of(user: object) -> Patient | None:
    """Everybody is Ada."""
    return ADA


def block(**changes: object) -> dict[str, object]:
    """A settings block that is right, with `changes`."""
    return {"patient_of": patient_of, "store": "memory://", "upstream": ScriptedUpstream()} | changes


def test_a_whole_block_opens(tmp_path: Path) -> None:
    """Everything by value, durations in seconds or as timedelta, the callable by its dotted path."""
    with Simulator(speed=100) as simulator:
        given = {
            "patient_of": "support.samples.everybody_is_ada",
            "store": f"sqlite:///{tmp_path / 'store.db'}",
            "upstream": {
                "base_url": simulator.url,
                "app_token": simulator.app_token,
                "authorization_key": simulator.authorization_key,
            },
            "policy": {"refresh_deadline": 60, "poll_interval": timedelta(seconds=2), "retry_limit": 3},
            "longest_wait": 10,
            "places": 4,
        }
        embedding = Embedding.of(given)
        with closing(embedding.open()) as phr:
            assert "started" == phr.refresh(ADA).kind
    expected = Policy(refresh_deadline=timedelta(seconds=60), poll_interval=timedelta(seconds=2), retry_limit=3)
    assert (expected, timedelta(seconds=10), 4) == (embedding.policy, embedding.contract.longest_wait, embedding.places)
    assert ADA is embedding.patient_of(object())


def test_what_is_not_given_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store and the upstream by their variables, the rest by default."""
    monkeypatch.setenv("PHR_REFRESH_STORE", "memory://")
    monkeypatch.setenv("PHR_REFRESH_MHV_URL", "https://mhv.example")
    monkeypatch.setenv("PHR_REFRESH_APP_TOKEN", SECRET)
    monkeypatch.setenv("PHR_REFRESH_AUTHORIZATION_KEY", "key")
    embedding = Embedding.of({"patient_of": patient_of})
    assert (Policy(), None, "memory://") == (embedding.policy, embedding.places, embedding.settings.store_url)
    assert "mhv.example" in repr(embedding.upstream)
    assert SECRET not in repr(embedding)


def test_secrets_may_lie_in_files(tmp_path: Path) -> None:
    """As in the environment, `file:...` names where a secret is."""
    (tmp_path / "token").write_text(f"{SECRET}\n", encoding="utf-8")
    given = {"base_url": "https://mhv.example", "authorization_key": "key", "app_token": f"file:{tmp_path / 'token'}"}
    upstream = Embedding.of(block(upstream=given)).upstream
    settings = MhvSettings(base_url="https://mhv.example", authorization_key="key", app_token=SECRET)
    assert repr(settings) in repr(upstream)


def test_a_host_may_open_the_store() -> None:
    """A callable in place of a URL: what it gives is used, and each opening calls it anew."""
    opened: list[MemoryStore] = []

    def open_one() -> MemoryStore:
        opened.append(MemoryStore())
        return opened[-1]

    embedding = Embedding.of(block(store=open_one))
    assert [] == opened
    with closing(embedding.open()) as phr, closing(embedding.open()):
        phr.refresh(ADA)
        assert [True, False] == [store.call(Load(ADA.key)).value is not None for store in opened]


WRONG = {
    "unknown key": ({"stroe": "memory://"}, "PHR_REFRESH['stroe']: it is unknown; use patient_of, store,"),
    "no patient_of": ({"patient_of": None}, "PHR_REFRESH['patient_of']: it is missing, or nothing that can be called;"),
    "no module": ({"patient_of": "nowhere.patient_of"}, "it cannot be imported (nowhere); check the dotted path."),
    "no name": ({"patient_of": "json.patient_of"}, "it is missing, or nothing that can be called;"),
    "unknown field": ({"policy": {"window": 1}}, "PHR_REFRESH['policy.window']: it is unknown; use refresh_window,"),
    "no duration": ({"policy": {"refresh_window": "1 h"}}, "it is no duration; give a timedelta, or seconds."),
    "no policy": ({"policy": "fast"}, "it is no Policy and no mapping; give the fields of Policy that differ."),
    "negative": ({"policy": {"refresh_window": -1}}, "Policy.refresh_window:"),
    "unknown upstream field": ({"upstream": {"url": "x"}}, "PHR_REFRESH['upstream.url']: it is unknown; use base_url,"),
    "half an upstream": ({"upstream": {"base_url": "https://x.example"}}, "PHR_REFRESH['upstream']: it has no"),
    "places": ({"places": "many"}, "PHR_REFRESH['places']: it is no whole number; give 0 or more."),
    "longest_wait": ({"longest_wait": "long"}, "PHR_REFRESH['longest_wait']: it is no duration;"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_block_names_the_setting(case: str) -> None:
    """One sentence that says which setting, what is wrong, and what to do."""
    changes, sentence = WRONG[case]
    with pytest.raises(ConfigurationError) as caught:
        Embedding.of(block(**changes))
    assert sentence in str(caught.value)


def test_a_wrong_store_url_is_found_when_it_is_opened() -> None:
    """The block is read without I/O; opening it says what is wrong."""
    embedding = Embedding.of(block(store="stroe://x"))
    with pytest.raises(ConfigurationError):
        embedding.open()
