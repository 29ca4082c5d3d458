"""Tag lines: what the forward seal puts into the journal, in the chain like every other line.

A tag line belongs to no trail and says nothing that happened. It stands for epochs `first` to `last` of one seal chain:
the last of them may have lines, all before it were idle. `seal` makes and checks the tag itself; here are its spelling
and the order of tags, which need no key. `FORMAT.md` has the rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vaultd.audit.canonical import MAX_INT
from vaultd.errors import IntegrityError

__all__ = ["MAX_CHAIN", "MAX_EPOCHS", "TAG_FORM", "Tag", "continues", "read", "render"]

MAX_EPOCHS: Final = 1024
"""Epochs that one tag may stand for: more would let a hostile journal buy hours of work with one line."""

MAX_CHAIN: Final = 2**32 - 1

_UINT: Final = rb"(?:0|[1-9][0-9]{0,18})"
_HEX32: Final = rb"[0-9a-f]{32}"
_HEX64: Final = rb"[0-9a-f]{64}"
TAG_FORM: Final = re.compile(
    rb'\{"v":2,"seq":(?P<seq>' + _UINT + rb")"
    rb',"time":"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)"'
    rb'(?:,"vault":"(?P<vault>' + _HEX32 + rb')")?'
    rb',"seal":\{"chain":(?P<chain>' + _UINT + rb'),"from":(?P<first>' + _UINT + rb'),"to":(?P<last>' + _UINT + rb")"
    rb'(?:,"next":"(?P<next>' + _HEX64 + rb')")?'
    rb',"tag":"(?P<tag>' + _HEX64 + rb')"\}'
    rb',"hash":"(?P<hash>' + _HEX64 + rb')"\}\n'
)
"""Version 2: a program that knows only version 1 says so, and does not call the journal damaged."""


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag line, taken apart.

    Attributes:
        chain: the seal chain's number, from 1: each has a first key of its own.
        first, last: the epochs it stands for.
        tag: the MAC in epoch `last`.
        following: what names the first key of the next chain, in a chain's last tag; else empty.
        vault: where the line also says whose journal this is.
    """

    seq: int
    time: str
    chain: int
    first: int
    last: int
    tag: bytes
    hash: bytes
    following: bytes = b""
    vault: bytes | None = None


def render(
    seq: int,
    time: str,
    chain: int,
    first: int,
    last: int,
    tag: bytes,
    *,
    following: bytes = b"",
    vault: str | None = None,
) -> bytes:
    """A tag line up to its hash, without a closing brace: what `chain.link` closes."""
    whose = "" if vault is None else f',"vault":"{vault}"'
    after = f',"next":"{following.hex()}"' if following else ""
    return (
        f'{{"v":2,"seq":{seq},"time":"{time}"{whose}'
        f',"seal":{{"chain":{chain},"from":{first},"to":{last}{after},"tag":"{tag.hex()}"}}'
    ).encode("ascii")


def read(found: re.Match[bytes]) -> Tag:
    """The tag line that `TAG_FORM` found.

    Raises:
        IntegrityError: its numbers cannot be.
    """
    seq, time, vault, chain, first, last, following, tag, said = found.group(
        "seq", "time", "vault", "chain", "first", "last", "next", "tag", "hash"
    )
    line = Tag(
        seq=int(seq),
        time=time.decode(),
        chain=int(chain),
        first=int(first),
        last=int(last),
        tag=bytes.fromhex(tag.decode()),
        hash=bytes.fromhex(said.decode()),
        following=b"" if following is None else bytes.fromhex(following.decode()),
        vault=None if vault is None else bytes.fromhex(vault.decode()),
    )
    if not (1 <= line.chain <= MAX_CHAIN and line.first <= line.last < MAX_INT):
        raise IntegrityError("a number in the tag line is out of range")
    if line.last - line.first >= MAX_EPOCHS:
        raise IntegrityError(f"a tag line stands for more than {MAX_EPOCHS} epochs")
    return line


def continues(tag: Tag, before: Tag | None, *, whole: bool = True) -> None:
    """Hold that `tag` may come after `before`, the tag line before it: epochs are counted, and none is left out.

    Args:
        whole: the walk began at the journal's first line, so `before` is None only where there is no earlier tag.

    Raises:
        IntegrityError: it may not.
    """
    if before is None:
        if whole and (tag.chain, tag.first) != (1, 0):
            raise IntegrityError("the first tag line does not begin with epoch 0 of seal chain 1")
    elif tag.chain == before.chain:
        if before.following:
            raise IntegrityError(f"seal chain {tag.chain} goes on after its last tag")
        if tag.first != before.last + 1:
            raise IntegrityError(
                f"the tag line begins with epoch {tag.first} where epoch {before.last + 1} should follow"
            )
    elif (tag.chain, tag.first) != (before.chain + 1, 0):
        raise IntegrityError(f"the tag line is not of seal chain {before.chain}, nor does it begin the next")
    elif before.following and tag.seq != before.seq + 1:
        # Between the last tag of a chain and the first of the next there would be lines that neither key was there for.
        raise IntegrityError(f"seal chain {tag.chain} does not begin right behind the last tag of the one before")
