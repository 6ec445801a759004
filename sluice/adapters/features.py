"""Online features in Redis: read by whoever ranks, written by one keeper. Library: redis-py; scripts run on 6.2 to 8.

| key | holds |
|---|---|
| `features:user:{id}`, `features:item:{id}` | hash: the state (`to_hash`), and `batch`, the number of its batch |
| `features:catalogue` | hash: `data` (JSON: genres and years of the items), `digest` of it |
| `features:keeper` | hash: `owner`, `number` of the last batch, `redo` (its states), `resume`, `until_ms`, `progress` |

A batch is written in two steps. First one script on `features:keeper` checks who owns it and sets number, states and
where to read on, all at once: from then on the batch counts. Then the states go to their own keys, each by a script
that refuses an older batch than what is there. A keeper that starts takes the ownership and does the second step
again: states are absolute, so writing them twice changes nothing, and a keeper that was overtaken can neither commit
nor spoil a state. No command touches two keys, so all this also runs on a Redis Cluster.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeVar

import msgspec
import redis
from msgspec import Struct

from sluice.adapters.logs import Seldom
from sluice.errors import Fenced, InvalidEvent, TransportError
from sluice.features import Catalogue, ItemState, UserState
from sluice.features.catalogue import ItemFacts
from sluice.features.online import ITEM_FIELDS, USER_FIELDS
from sluice.names import Keys

__all__ = ["Claimed", "FeatureKeeping", "FeatureStore", "KeeperProgress"]

log = logging.getLogger(__name__)
_seldom = Seldom()

CHUNK = 2000
T = TypeVar("T")

_CLAIM = """
local known = redis.call('HMGET', KEYS[1], 'number', 'redo', 'resume', 'until_ms')
if ARGV[2] == '' or known[2] ~= ARGV[2] then redis.call('HSET', KEYS[1], 'owner', ARGV[1]) end
return known
"""
_COMMIT = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""
_PUT = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then
  local seen = redis.call('HGET', KEYS[1], 'batch')
  if (tonumber(seen or '') or -1) >= tonumber(ARGV[1]) then return 0 end
elseif kind ~= 'none' then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], 'batch', unpack(ARGV))
return 1
"""


class KeeperProgress(Struct, frozen=True, kw_only=True):
    """How far the features follow the log."""

    at_ms: int
    """When this was written, by the keeper's clock: old when no keeper runs"""
    applied_ms: int
    """Event time at which the last slate ended that the states know; −1 before the first"""
    final_ms: int
    """Event time up to which the log is final on every partition; −1 before all have spoken"""
    slates: int
    """Slates learned, since the states were begun"""
    lag: int
    """Records of the log that were not read yet"""
    behind: str
    """The partition that the others wait for: `clicks[2]`"""


class Claimed(Struct, frozen=True, kw_only=True):
    """What a keeper takes up."""

    resume: bytes
    """As the last commit gave it; empty when there was none: read the log from its beginning"""
    until_ms: int
    """Slates that ended until then are in the states that somebody wrote as a whole; −1: nobody did"""


class FeatureStore:
    """Reads states, and writes the catalogue they are kept with. As thread-safe as its client."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def read(self, users: Sequence[str], items: Sequence[str]) -> tuple[list[UserState], list[ItemState]]:
        """States in the order asked for, in one pipelined round trip. Nobody's state is that of a new user or item.

        So is one that something else wrote. Raises TransportError when Redis is away.
        """
        with self._client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.hmget(self._keys.feature_user(user), USER_FIELDS)
            for item in items:
                pipe.hmget(self._keys.feature_item(item), ITEM_FIELDS)
            answers = _asking(lambda: pipe.execute(raise_on_error=False))
        return (
            [_user_state(user, answer) for user, answer in zip(users, answers, strict=False)],
            [_item_state(item, answer) for item, answer in zip(items, answers[len(users) :], strict=True)],
        )

    def put_catalogue(self, catalogue: Catalogue) -> None:
        """For the keeper, which follows it within seconds. Raises TransportError when Redis is away."""
        items = {item: (facts.year, facts.genres) for item, facts in catalogue.items.items()}
        data = msgspec.json.encode(_Catalogue(tuple(map(str, catalogue.genres)), items))
        digest = blake2b(data, digest_size=16).hexdigest()
        key = self._keys.feature_catalogue
        _asking(lambda: self._client.hset(key, mapping={"data": data, "digest": digest}))

    def catalogue(self, known: str = "") -> tuple[str, Catalogue] | None:
        """(digest, catalogue); None when there is none, or its digest is `known`.

        Raises TransportError when Redis is away, InvalidEvent when something else wrote the key.
        """
        key = self._keys.feature_catalogue
        digest = _asking(lambda: self._client.hget(key, "digest"))
        if digest is None or digest.decode() == known:
            return None
        try:
            found = msgspec.json.decode(_asking(lambda: self._client.hget(key, "data")) or b"", type=_Catalogue)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidEvent(f"{key}: not a catalogue: {error}") from error
        items = {item: ItemFacts(genres, year) for item, (year, genres) in found.items.items()}
        return digest.decode(), Catalogue(found.genres, items)

    def progress(self) -> KeeperProgress | None:
        """Of the keeper; None before its first commit. Raises TransportError when Redis is away."""
        data = _asking(lambda: self._client.hget(self._keys.feature_keeper, "progress"))
        return msgspec.json.decode(data, type=KeeperProgress) if data else None


class FeatureKeeping:
    """The writing side. The one that claimed last owns the states. Not thread-safe."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._owner = ""
        self._number = 0

    def claim(self) -> Claimed:
        """Become the owner, and finish what the one before may have left half done.

        Raises TransportError when Redis is away, or when the states are being written as a whole.
        """
        redo, resume, until_ms = self._own(unless=_UNFINISHED)
        if redo == _UNFINISHED:
            raise TransportError("the features were not written to the end: write them again (`write_all`), or reset")
        if redo:
            states = msgspec.msgpack.decode(redo, type=_Redo)
            self._put(states.users, states.items)
        return Claimed(resume=resume or b"", until_ms=int(until_ms if until_ms is not None else -1))

    def commit(
        self,
        users: Mapping[str, UserState],
        items: Mapping[str, ItemState],
        resume: bytes,
        progress: KeeperProgress,
    ) -> None:
        """Set these states, and where a successor reads on. After an error nobody but `claim` knows what holds.

        Raises Fenced when somebody else has claimed the states since, TransportError when Redis is away.
        """
        states = _Redo(
            {user: state.to_hash() for user, state in users.items()},
            {item: state.to_hash() for item, state in items.items()},
        )
        self._advance(
            {"redo": msgspec.msgpack.encode(states), "resume": resume, "progress": msgspec.json.encode(progress)}
        )
        self._put(states.users, states.items)

    def write_all(
        self,
        users: Mapping[str, UserState],
        items: Mapping[str, ItemState],
        until_ms: int,
        told: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Replace all states by those of a log whose slates ended until `until_ms`.

        A keeper that runs is fenced; the next one reads the log from its beginning and leaves out what had ended
        by then. `told` is called with how many states are written. Raises TransportError when Redis is away,
        Fenced when somebody else claims the states meanwhile.
        """
        self._begin_anew()
        written = 0
        for chunk in _chunks(users.items()):
            self._put({user: state.to_hash() for user, state in chunk}, {})
            told(written := written + len(chunk))
        for part in _chunks(items.items()):
            self._put({}, {item: state.to_hash() for item, state in part})
            told(written := written + len(part))
        self._advance({"redo": b"", "resume": b"", "until_ms": until_ms, "progress": b""})

    def reset(self) -> None:
        """Forget all states. The next keeper reads the log from its beginning. Raises as `write_all`."""
        self._begin_anew()
        self._advance({"redo": b"", "resume": b"", "until_ms": -1, "progress": b""})

    def _own(self, *, unless: bytes = b"") -> tuple[bytes | None, bytes | None, bytes | None]:
        """(redo, resume, until_ms). A new name each time: what an earlier attempt sent may still be on its way.

        unless: a `redo` that leaves the states to whom they belong: who writes them as a whole is not disturbed.
        """
        self._owner = uuid.uuid4().hex
        key = self._keys.feature_keeper
        number, redo, resume, until_ms = _asking(lambda: self._client.eval(_CLAIM, 1, key, self._owner, unless))
        self._number = int(number or 0)
        return redo, resume, until_ms

    def _begin_anew(self) -> None:
        self._own()
        self._advance({"redo": _UNFINISHED})
        for key in (self._keys.feature_user(""), self._keys.feature_item("")):
            # A prefix may hold characters that mean something in a pattern.
            pattern = re.sub(r"([*?\[\]\\])", r"\\\1", key) + "*"
            for chunk in _chunks(_asking(partial(self._found, pattern))):
                with self._client.pipeline(transaction=False) as pipe:
                    for name in chunk:
                        pipe.unlink(name)
                    _asking(pipe.execute)

    def _found(self, pattern: str) -> list[bytes]:
        return list(self._client.scan_iter(match=pattern, count=1000))

    def _advance(self, fields: Mapping[str, Any]) -> None:
        arguments = [part for pair in {"number": self._number + 1, **fields}.items() for part in pair]
        key = self._keys.feature_keeper
        moved = _asking(lambda: self._client.eval(_COMMIT, 1, key, self._owner, *arguments))
        if not moved:
            raise Fenced("the features are no longer ours: another keeper took them over, or Redis was emptied")
        self._number += 1

    def _put(self, users: Mapping[str, Mapping[str, bytes]], items: Mapping[str, Mapping[str, bytes]]) -> None:
        states = [(self._keys.feature_user(user), fields) for user, fields in users.items()]
        states += [(self._keys.feature_item(item), fields) for item, fields in items.items()]
        for start in range(0, len(states), CHUNK):
            with self._client.pipeline(transaction=False) as pipe:
                for key, fields in states[start : start + CHUNK]:
                    pipe.eval(_PUT, 1, key, str(self._number), *[part for pair in fields.items() for part in pair])
                _asking(pipe.execute)


class _Catalogue(Struct, frozen=True):
    genres: tuple[str, ...]
    items: dict[str, tuple[int, tuple[int, ...]]]
    """Item id → (year, indices of its genres)"""


class _Redo(Struct, frozen=True, array_like=True):
    users: dict[str, dict[str, bytes]]
    items: dict[str, dict[str, bytes]]


_UNFINISHED = b"unfinished"


def _chunks(values: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(values)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _asking(command: Callable[[], T]) -> Any:
    try:
        return command()
    except redis.RedisError as error:
        raise TransportError(f"Redis does not answer about features: {error}") from error


def _user_state(user: str, answer: Any) -> UserState:
    try:
        return UserState.from_hash(_fields(USER_FIELDS, answer))
    except ValueError as error:
        if (more := _seldom("user")) is not None:
            log.warning("features of user %s: not ours, taken for a new user: %s%s", user, error, more)
        return UserState()


def _item_state(item: str, answer: Any) -> ItemState:
    try:
        return ItemState.from_hash(item, _fields(ITEM_FIELDS, answer))
    except ValueError as error:
        if (more := _seldom("item")) is not None:
            log.warning("features of item %s: not ours, taken for a new item: %s%s", item, error, more)
        return ItemState.new(item)


def _fields(names: Iterable[str], answer: Any) -> dict[bytes, bytes]:
    if isinstance(answer, redis.ResponseError) and str(answer).startswith("WRONGTYPE"):
        raise ValueError(answer)
    if isinstance(answer, Exception):
        raise TransportError(f"Redis does not tell features: {answer}") from answer
    return {name.encode(): value for name, value in zip(names, answer, strict=True) if value is not None}
