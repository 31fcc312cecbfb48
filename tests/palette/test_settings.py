"""Flag > environment > .env > file > default; unknown keys refused; the key stays at home."""

from __future__ import annotations

import re

import pytest

from cultural_palette.errors import SettingsError
from cultural_palette.settings import Settings, current_settings, get_settings, use_settings


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_each_source_wins_over_the_next(tmp_path, monkeypatch):
    assert get_settings().seed == 0
    (tmp_path / "palette.toml").write_text("seed = 1")
    assert get_settings().seed == 1
    (tmp_path / ".env").write_text("PALETTE_SEED=2\nSOMEBODY_ELSES=3\n")
    assert get_settings().seed == 2
    monkeypatch.setenv("PALETTE_SEED", "3")
    assert get_settings().seed == 3
    assert get_settings(seed=4).seed == 4
    assert get_settings(seed=None).seed == 3  # a flag that was not given


def test_models_merge_part_by_part(tmp_path, monkeypatch):
    (tmp_path / "palette.toml").write_text('[models]\nafrica = "openai:a"\nmeta = "openai:m"')
    monkeypatch.setenv("PALETTE_MODELS__AFRICA", "openai:b")
    assert get_settings().models == {"africa": "openai:b", "meta": "openai:m"}
    assert get_settings(models={"meta": "openai:z"}).models == {"africa": "openai:b", "meta": "openai:z"}


def test_sampling_merges_value_by_value(tmp_path, monkeypatch):
    (tmp_path / "palette.toml").write_text("[sampling.draft]\ntop_p = 0.9\nmin_p = 0.1")
    monkeypatch.setenv("PALETTE_SAMPLING__DRAFT__TOP_P", "0.8")
    monkeypatch.setenv("PALETTE_SAMPLING__META__MAX_TOKENS", "40")
    assert get_settings().sampling == {"draft": {"top_p": 0.8, "min_p": 0.1}, "meta": {"max_tokens": 40}}
    chosen = get_settings(sampling={"draft": {"min_p": "0.2"}}).sampling
    assert chosen == {"draft": {"top_p": 0.8, "min_p": 0.2}, "meta": {"max_tokens": 40}}


def test_a_settings_file_may_begin_with_a_byte_order_mark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "palette.toml").write_bytes(b'\xef\xbb\xbfseed = 3\r\n[models]\r\nafrica = "openai:x"\r\n')
    assert get_settings().seed == 3 and get_settings().models == {"africa": "openai:x"}


def test_palette_config_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('map = "inglehart_welzel"')
    monkeypatch.setenv("PALETTE_CONFIG", "mine.toml")
    assert get_settings().map == "inglehart_welzel"
    monkeypatch.setenv("PALETTE_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsError, match=r"PALETTE_CONFIG names 'nowhere\.toml', which is not a file"):
        get_settings()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("sead = 1", "Unknown setting 'sead'. Did you mean seed?"),
        ("seed = 'x'", r"Setting 'seed': .*integer.* \(got 'x'\)"),
        ("temperature = 3", r"Setting 'temperature': .*less than or equal to 2 \(got 3\)"),
        ("readout = 'guess'", r"Setting 'readout': .*'auto', 'exact', 'top_logprobs' or 'sampling'"),
        ("base_url = 'localhost:8000'", r"Setting 'base_url': expected an address that starts with http://"),
        ("[sampling.draft]\ntop_q = 1", r"Unknown setting 'sampling\.draft\.top_q'\. Did you mean top_p\?"),
        ("[sampling.draft]\ntop_p = 0", r"Setting 'sampling\.draft\.top_p': .*greater than 0 \(got 0\)"),
        ("[sampling.drafts]", r"Setting 'sampling\.drafts.*': .*'draft' or 'meta'"),
        ("seed =", r"palette\.toml is not TOML"),
    ],
)
def test_a_bad_file_is_named(tmp_path, written, message):
    (tmp_path / "palette.toml").write_text(written)
    with pytest.raises(SettingsError, match=message):
        get_settings()


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(SettingsError, match=r"Unknown setting 'modle'\. Did you mean model\?"):
        get_settings(modle="x")
    monkeypatch.setenv("PALETTE_SEAD", "1")
    with pytest.raises(
        SettingsError, match=r"environment variable 'PALETTE_SEAD'\. Did you mean PALETTE_SEED\?"
    ):
        get_settings()


def test_a_value_that_should_be_json(monkeypatch):
    monkeypatch.setenv("PALETTE_MODELS", "africa=openai:x")
    with pytest.raises(SettingsError, match="models"):
        get_settings()


def test_openai_names_are_the_fallback(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://there/v1/")
    settings = get_settings()
    assert settings.api_key is not None and settings.api_key.get_secret_value() == "sk-theirs"
    assert settings.base_url == "http://there/v1"
    monkeypatch.setenv("PALETTE_API_KEY", "sk-ours")
    settings = get_settings()
    assert settings.api_key is not None and settings.api_key.get_secret_value() == "sk-ours"


def test_an_empty_line_counts_as_not_set(tmp_path):
    (tmp_path / ".env").write_text("PALETTE_API_KEY=\nPALETTE_MODEL=\nOPENAI_API_KEY=sk-x\n")
    settings = get_settings()
    assert settings.model is None
    assert settings.api_key is not None and settings.api_key.get_secret_value() == "sk-x"


def test_the_key_is_shown_nowhere(monkeypatch):
    monkeypatch.setenv("PALETTE_API_KEY", "sk-secret")
    settings = get_settings()
    assert "sk-secret" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_the_key_goes_only_to_servers_of_the_settings():
    settings = get_settings(
        api_key="sk-x",
        base_url="http://here:1/v1",
        model="openai:m@http://there:2/v1",
        models={"africa": "openai:a@http://that:3/v1"},
    )
    for url in (
        None,
        "http://here:1/v1",
        "http://there:2/other",
        "http://that:3/v1",
        "https://api.openai.com/v1",
    ):
        assert settings.key_for(url) is not None, url
    for url in ("http://here:2/v1", "https://here:1/v1", "http://elsewhere/v1"):
        assert settings.key_for(url) is None, url


def test_settings_in_force_end_with_their_block():
    before = current_settings()
    with use_settings(get_settings(seed=7)) as chosen:
        assert current_settings() is chosen
    assert current_settings() is before


def test_the_example_names_every_setting_with_its_default(root, tmp_path, monkeypatch):
    text = (root / ".env.example").read_text()
    shown = {
        name.lower() for name in re.findall(r"^#? ?PALETTE_([A-Z_]+?)(?:__[A-Z_]+)?=", text, re.MULTILINE)
    }
    assert shown == set(Settings.model_fields)
    (tmp_path / ".env").write_text(text)
    (tmp_path / "empty").mkdir()
    written = get_settings()
    monkeypatch.chdir(tmp_path / "empty")
    assert written == get_settings()
