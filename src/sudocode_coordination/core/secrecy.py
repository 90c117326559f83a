"""What is never shared of uncommitted work, because it may be a secret. Names first, then content.

Laws: of a file whose name is denied nothing is shared, not even its name; of a file whose new lines look like they hold a key,
only that it is changed. It is a net with holes: nobody can tell a password from a word. Who must be sure denies more
(`file_diff_deny`), or shares nothing (`enable_file_diffs = false`, as it is by default).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from itertools import pairwise
from typing import Final

DENIED_NAMES: Final = (
    ".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.ppk", "*.p8", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx",
    "*.kdb", "*.asc", "*.gpg", "*.pgp", "*.age", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*_rsa", "*_ed25519",
    "credentials", "credentials.*", "*credentials*.json", "*service-account*.json", "*service_account*.json", "client_secret*",
    "secrets", "secrets.*", "*.secret", "*.secrets", "*secret*.y*ml", "*secret*.json", "*secret*.toml", ".netrc", "_netrc",
    ".npmrc", ".pypirc", ".htpasswd", ".pgpass", ".my.cnf", ".git-credentials", ".dockercfg", ".docker/*", "kubeconfig",
    "*.kubeconfig", ".kube/*", ".aws/*", ".ssh/*", ".gnupg/*", ".azure/*", ".gcloud/*", "*.tfvars", "*.tfvars.json", "*.tfstate",
    "*.tfstate.*", ".terraform/*", ".vault-token", "vault.y*ml", "*.ovpn", "*.mobileprovision", ".htaccess", "wp-config.php",
    "*.agilekeychain", "*.keychain", "*.sqlite", "*.sqlite3", "*.db", "*.dump", ".env-*", ".env_*", ".envs", ".boto",
    ".s3cfg", "rclone.conf", ".terraformrc",
)  # fmt: skip
"""Of the last part of a path, or of its last two if there is a slash in it; case does not count."""
_COPY = re.compile(r"(?:^[.#]*#|#$|~\d*~?$|[._-](?:bak|backup|old|orig|save|copy|tmp|sw[a-p]|rej|disabled)\d*$)")
"""What editors and people add to a name when they keep what was there: whoever ignores `.env` has often not thought of `.env~`."""
MAX_COPIES: Final = 4
"""Such additions that are taken off a name."""

_KEY_LIKE = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"
    r"|\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}|\bglpat-[A-Za-z0-9_-]{18,}"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bhooks\.slack\.com/services/T[A-Za-z0-9/]{20,}"
    r"|\bAIza[A-Za-z0-9_-]{35}|\bya29\.[A-Za-z0-9_-]{20,}"  # Google
    r"|\b[sr]k_live_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{20,}"  # Stripe; OpenAI, Anthropic
    r"|\bnpm_[A-Za-z0-9]{36}|\bpypi-[A-Za-z0-9_-]{40,}|\bdop_v1_[a-f0-9]{60,}|\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\."  # JSON web tokens
    r"|\bAGE-SECRET-KEY-1[0-9A-Z]{20,}"
    r"|://[^\s/:@'\"<>{}$]{1,60}:[^\s/:@'\"<>{}$]{3,200}@"  # a login in an address
)
_NAMED = re.compile(
    r"(?i)(?:passw(?:or)?d|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?token|client[_-]?secret)"
    r"[\w.-]{0,20}['\"]?\s{0,4}(?::=|=>|[:=])\s{0,4}['\"]([^'\"\s]{8,200})['\"]"
)
"""A name that says it, and a literal behind it."""
_BARE = re.compile(
    r"(?im)^[^\n]{0,80}?(?:passw(?:or)?d|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?token)"
    r"[\w-]{0,20}[ \t]{0,4}[:=][ \t]{0,4}((?=[^\d\n]{0,200}\d)(?=[^a-z\n]{0,200}[a-z])[A-Za-z0-9/+=-]{16,200})[ \t\r]*$"
)
"""The same without quotation marks, as in YAML, INI files and shells: a whole word of letters and digits to the line's end."""
_KEY_BODY = re.compile(r"(?m)^[ \t\"']{0,40}[A-Za-z0-9+/]{24,76}={0,2}(?:\\n)?[\"',\\]{0,3}\r?$")
_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY")
_NO_SECRET = re.compile(r"[${<%*]|(?i:example|changeme|placeholder|your[_-]|xxxx|dummy|redacted|(?<![a-z])test(?![a-z]))")
"""In such a literal: it stands for one."""
MAX_SEARCHED: Final = 32 << 10
"""Characters of one text: more is never shared of a file."""


class Denial:
    """Which names are denied.

    Args:
        more: patterns beside `DENIED_NAMES`; without a slash of the last part of a path, with one of the whole.
    """

    def __init__(self, more: Iterable[str] = ()) -> None:
        own = tuple(pattern.casefold() for pattern in more)
        self._last = _any_of([p for p in DENIED_NAMES if "/" not in p] + [p for p in own if "/" not in p])
        self._last_two = _any_of([p for p in DENIED_NAMES if "/" in p])
        self._whole = _any_of([p for p in own if "/" in p])

    def denies(self, path: str) -> bool:
        """Whether nothing of this file may be told."""
        parts = [_plain(part) for part in path.casefold().split("/")]
        named = {*parts, *path.casefold().split("/")}
        if any(self._last.match(part) for part in named):  # a folder named `secrets` is as good as a file
            return True
        if any(self._last_two.match("/".join(pair)) for pair in pairwise(parts)):
            return True
        return self._whole.match("/".join(parts)) is not None or self._whole.match(path.casefold()) is not None


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(pattern) for pattern in patterns) or r"(?!)", re.DOTALL)


def _plain(name: str) -> str:
    for _ in range(MAX_COPIES):
        shorter = _COPY.sub("", name)
        if shorter in ("", name):
            break
        name = shorter
    return name


def looks_secret(text: str, whole: str = "") -> bool:
    """Whether a text that would be shared seems to hold a key, a token, or a password given as one.

    Args:
        text: the new lines.
        whole: the file that they are in: where a private key begins there, lines like the inside of one are taken for it.
    """
    if len(text) > MAX_SEARCHED:
        return True
    if _KEY_LIKE.search(text):
        return True
    if _KEY_BEGIN.search(whole) and _KEY_BODY.search(text):
        return True
    return any(not _NO_SECRET.search(found[1]) for kind in (_NAMED, _BARE) for found in kind.finditer(text))
