"""Requests of somebody who wants out of the registry, into the log, past the keys, or just a failure. All of them from one seed."""

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote, quote_from_bytes

CANARY = "outside-of-everything"
ESCAPES = (
    *("../../../../etc/passwd", "..", ".", "/etc/passwd", "//etc/passwd", "..\\..\\windows", "file:///etc/passwd", "~root"),
    *("~/.ssh/id_rsa", "tiny/../../{canary}", "../{canary}", "tiny/1/../../../{canary}/manifest.json", "tiny:../{canary}"),
    *("tiny@../{canary}", "models:/../{canary}", "models:/tiny/../../{canary}", "models:/tiny@../../{canary}", "http://127.0.0.1:1/x"),
    *("tiny\x00", "tiny\x00.json", "tiny:1/../../../{canary}", "tiny%00", ".hidden", "-rf", "CON", "aux.txt", "tiny/.aliases"),
    *("tiny/aliases.json", "\\\\host\\share"),
)
CODE = (
    *("' OR 1=1 --", '"; DROP TABLE jobs; --', "1; SELECT * FROM sqlite_master", "%s%s%s%n", "{0.__class__}"),
    *("{canary.__init__.__globals__}", "${jndi:ldap://x/a}", "$(touch /tmp/{canary})", "`id`", "{{7*7}}", "<script>alert(1)</script>"),
    *("%d" * 50, "__import__('os')", "|id"),
)
ODD = (
    *("", " ", "\t", "\x7f", "\ud800", "\u202etxt.exe", "ﬁp", "𝕥𝕚𝕟𝕪", "TINY", "tiny ", "tıny", "\0" * 9, "é" * 40, "\ufeff", "名前"),
    *("🔥" * 30, "a" * 65, "a" * 4000, "1" * 5000, "-1", "1e999", "NaN", "0x10", "9" * 30, "null", "None", "true", "[]", "{}", "@", ":"),
    *("@@", "::", "a@b:c", "x\r\nX-Evil: 1", "x\nX-Evil: 1", "x\rX-Evil: 1", "%0d%0aX-Evil:%201", "x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    "e\u0301" * 20,
)
WORDS = tuple(each.replace("{canary}", CANARY) for each in (*ESCAPES, *CODE, *ODD))
PATHS = (
    *("/v1/models/{}", "/v1/models/{}/aliases/{}", "/v1/models/models:/{}", "/v1/jobs/{}", "/v1/jobs/{}/result", "/v1/jobs/{}/events"),
    *("/{}", "/v2/models/{}", "/v2/models/{}/versions/{}", "/v2/models/{}/versions/{}/infer", "/v2/models/{}/ready"),
    *("/v2/repository/models/{}/load", "/v2/repository/models/{}/unload", "/static-offline-docs/{}", "/health/{}", "/docs/{}"),
    *("/metrics/{}", "/v1/classify/{}", "{}"),
)
OPTIONS = ("model", "format", "input_format", "up", "unit", "top", "logits", "__proto__", "")
HEADERS = (
    *(b"X-Request-ID", b"X-Filename", b"X-Request-Timeout", b"Accept", b"Content-Type", b"Content-Encoding", b"Authorization"),
    *(b"X-API-Key", b"Host", b"Origin", b"Cookie", b"Range", b"traceparent", b"tracestate", b"Forwarded", b"X-Forwarded-For"),
    *(b"X-Forwarded-Host", b"Transfer-Encoding", b"Expect", b"Upgrade", b"Connection", b"If-None-Match", b"X-HTTP-Method-Override"),
    *(b"Inference-Header-Content-Length", b"Idempotency-Key"),
)
BROKEN = ("%", "%f", "%zz", "%ff%fe", "%c0%ae%c0%ae%c0%af", "%u002e", ";a=b", "?x", "#x")
TARGETS = ("/v1/models", "*", "http://evil.example/v1/models", "//evil.example", "evil.example:80", "/\0", "/ ", "/?" + "a" * 70_000, "")
ASKED = (
    *(("GET", "/v1/models"), ("POST", "/v1/classify"), ("POST", "/v1/segment?format=ply"), ("GET", "/health/ready")),
    *(("POST", "/v1/jobs"), ("POST", "/v2/models/tiny/infer")),
)
KEYED = (("GET", "/v1/models"), ("POST", "/v1/classify"), ("PUT", "/v1/models/x/aliases/y"), ("GET", "/metrics"))
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
BODY = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n1 2 3\n"


@dataclass(frozen=True)
class Hostile:
    """kind: what of it is hostile; sent: the bytes; head: whether the answer has no body."""

    kind: str
    sent: bytes
    head: bool = False


def hostile_requests(count: int, seed: int, key: bytes) -> Iterator[Hostile]:
    """So many of all kinds in turn. key: opens everything, so that some get as far as they can; empty if nobody needs one."""
    rng = random.Random(seed)
    kinds: tuple[Callable[[random.Random, bytes], Hostile], ...] = (_path, _path, _upload, _header, _header, _key, _raw_header, _line)
    for number in range(count):
        yield kinds[number % len(kinds)](rng, key if rng.random() < 0.7 else b"")


def _word(rng: random.Random) -> str:
    """One of the words, or something like it."""
    word = rng.choice(WORDS)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        at = rng.randrange(len(word) + 1)
        word = rng.choice((_inserted, _joined, _cut, _repeated))(rng, word, at)
    return word[:6000]


def _inserted(rng: random.Random, word: str, at: int) -> str:
    return word[:at] + chr(rng.choice((*range(256), 0x2028, 0xFFFD, 0x1F600, 0xDC80))) + word[at:]


def _joined(rng: random.Random, word: str, at: int) -> str:
    return word[:at] + rng.choice(("/", "/../", "@", ":", "\0", "%2e%2e%2f", ".")) + rng.choice(WORDS)


def _cut(rng: random.Random, word: str, at: int) -> str:
    return word[at:]


def _repeated(rng: random.Random, word: str, at: int) -> str:
    return word * rng.choice((2, 3, 50))


def _encoded(rng: random.Random, word: str) -> str:
    """As part of an address: properly escaped, twice so, in parts, with broken escapes, or in overlong UTF-8."""
    data = word.encode("utf-8", "surrogatepass")
    how = rng.randrange(6)
    if how == 0:
        return quote(quote_from_bytes(data, safe=""), safe="")
    if how == 1:
        return quote_from_bytes(data, safe="/:@%.")
    if how == 2:
        return quote_from_bytes(data, safe="") + rng.choice(BROKEN)
    if how == 3:
        return "".join(f"%{byte:02X}" for byte in data[:2000])
    return quote_from_bytes(data, safe="")


def _request(method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes, key: bytes) -> bytes:
    names = {name.lower() for name, _ in headers}
    lines = [b"%s: %s" % header for header in headers]
    lines += [] if b"host" in names else [b"Host: localhost"]
    lines += [b"X-API-Key: " + key] if key and not {b"authorization", b"x-api-key"} & names else []
    lines += [b"Content-Length: %d" % len(body)] if method != "GET" or body else []
    return b"\r\n".join([f"{method} {target} HTTP/1.1".encode("utf-8", "surrogatepass"), *lines, b"", b""]) + body


def _path(rng: random.Random, key: bytes) -> Hostile:
    pattern, method = rng.choice(PATHS), rng.choice(METHODS)
    target = pattern.format(*(_encoded(rng, _word(rng)) for _ in range(pattern.count("{}"))))
    body = rng.choice((b"", b"{}", b'{"version": "../../x"}', b"\xff\xfe", BODY))
    return Hostile("path", _request(method, target or "/", [], body, key), method == "HEAD")


def _upload(rng: random.Random, key: bytes) -> Hostile:
    options = [(rng.choice(OPTIONS), _encoded(rng, _word(rng))) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    target = (
        rng.choice(("/v1/classify", "/v1/segment", "/v1/jobs", "/v1/points")) + "?" + "&".join(f"{name}={value}" for name, value in options)
    )
    return Hostile("option", _request("POST", target, [], BODY, key))


def _value(rng: random.Random) -> bytes:
    """Of a header: a word as it is, in another encoding, or bytes; without the line ends that would end it."""
    word = _word(rng)
    data = rng.choice(
        (
            lambda: word.encode("utf-8", "surrogatepass"),
            lambda: word.encode("latin-1", "replace"),
            lambda: word.encode("utf-16", "surrogatepass"),
            lambda: rng.randbytes(rng.choice((1, 8, 200, 3000))),
        )
    )()
    return data if rng.random() < 0.1 else data.translate(None, b"\r\n\0")


def _header(rng: random.Random, key: bytes) -> Hostile:
    headers = [(rng.choice(HEADERS), _value(rng)) for _ in range(rng.choice((1, 1, 2, 5)))]
    method, target = rng.choice(ASKED)
    return Hostile("header", _request(method, target, headers, BODY if method == "POST" else b"", key))


def _key(rng: random.Random, key: bytes) -> Hostile:
    """Near a key that opens everything, if there is one."""
    alphabet = string.ascii_letters + string.digits + "_-"
    text = bytearray(key or f"fip_{rng.randbytes(6).hex()}_{''.join(rng.choices(alphabet, k=43))}".encode())
    for _ in range(rng.choice((1, 1, 2, 10))):
        insert = partial(text.insert, rng.randrange(len(text) + 1))
        rng.choice((insert, text.append))(rng.choice((*range(33, 127), *range(128, 256))))
    present = rng.choice(
        (b"Authorization: Bearer %s", b"X-API-Key: %s", b"Authorization: %s", b"Authorization: Basic %s", b"X-API-Key: %s ")
    )
    name, _, value = (present % bytes(text) * rng.choice((1, 1, 1, 40))).partition(b": ")
    method, target = rng.choice(KEYED)
    return Hostile("key", _request(method, target, [(name, value)] * rng.choice((1, 1, 2)), b"", b""))


def _raw_header(rng: random.Random, key: bytes) -> Hostile:
    """Not even a header."""
    wrong = rng.choice(
        (
            lambda: rng.randbytes(rng.choice((1, 20, 500))),
            lambda: b"no colon",
            lambda: b": no name",
            lambda: b"X Y: a name of two words",
            lambda: b" folded: line",
            lambda: b"X: " + b"y" * 70_000,
            lambda: b"\r\n".join(b"X-%d: y" % number for number in range(3000)),
            lambda: b"Content-Length: " + rng.choice((b"-1", b"+4", b"4, 4", b"0x4", b"9" * 40, b"4\r\nContent-Length: 5", b"")),
            lambda: b"Transfer-Encoding: " + rng.choice((b"chunked\r\nContent-Length: 4", b"gzip", b"chunked, chunked", b"identity")),
            lambda: b"Host: a\r\nHost: b",
            lambda: b"X: \0",
        )
    )()
    start = rng.choice((b"GET /v1/models", b"POST /v1/classify", b"GET /health/live"))
    return Hostile("raw header", start + b" HTTP/1.1\r\nHost: localhost\r\n" + wrong + b"\r\n\r\n" + rng.choice((b"", b"body", BODY)))


def _line(rng: random.Random, key: bytes) -> Hostile:
    """A first line that is none, or hardly one."""
    method = rng.choice(("GET", "get", "G\0T", "TRACE", "CONNECT", "PROPFIND", "M-SEARCH", "", "\xff", "GET" * 50, "PRI"))
    target = rng.choice(TARGETS)
    version = rng.choice(("HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTP/0.9", "HTTP/2.0", "HTCPCP/1.0", "", "\xff"))
    line = rng.choice((f"{method} {target} {version}".encode("latin-1"), rng.randbytes(rng.choice((2, 60, 900)))))
    return Hostile("line", line + b"\r\nHost: localhost\r\n\r\n", head=method == "HEAD")
