"""Hashes and versions, as manifests have them."""

from __future__ import annotations

import hashlib
from importlib.metadata import version

from cultural_palette.provenance import file_sha256, installed_versions, sha256, short_sha256

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def test_texts_and_bytes():
    assert sha256("abc") == sha256(b"abc") == ABC
    assert short_sha256("abc") == ABC[:16]
    assert short_sha256("abc", 12) == ABC[:12]
    assert sha256("日本") == hashlib.sha256("日本".encode()).hexdigest()


def test_texts_that_differ_in_half_a_surrogate_pair_differ():
    assert len({sha256("a\ud83d"), sha256("a\ud83e"), sha256("a?"), sha256("a\ufffd")}) == 4


def test_files_one_after_the_other(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"a")
    second.write_bytes(b"bc")
    assert file_sha256(first, second) == ABC
    first.write_bytes(b"x" * (2**20 + 1))  # more than a block
    assert file_sha256(first) == hashlib.sha256(b"x" * (2**20 + 1)).hexdigest()


def test_versions_of_what_is_installed_in_this_order():
    found = installed_versions(("pyyaml", "no-such-package", "click"))
    assert list(found.items()) == [("pyyaml", version("pyyaml")), ("click", version("click"))]
