"""Which files a shell command writes, as well as can be told without running it.

Read are redirections, here-documents, `cd`, and the commands that name what they write: `sed -i`, `mv`, `rm`, `tee`,
`git checkout --`, `apply_patch` and their like, behind `sudo`, `env`, `bash -c` and so on. What only a shell or the program itself
knows (variables, substitutions, scripts) is passed over: the guards of git see it at the commit. The grammar is that of POSIX
(XCU 2.3, 2.7, 2.9), as far as it is needed. Built-in modules alone: it runs before every shell command of an agent.
"""

MAX_CHARACTERS = 200_000
"""Of a command that is read; what is longer has its first part read."""
MAX_DEPTH = 4
"""Of `bash -c` in `bash -c`."""
_OPERATORS = (
    "&&",
    "||",
    ";;",
    "<<-",
    "<<<",
    "<<",
    ">>",
    ">|",
    ">&",
    "<&",
    "<>",
    "&>>",
    "&>",
    "|&",
    ";",
    "&",
    "|",
    "(",
    ")",
    ">",
    "<",
    "\n",
)
_BY_LENGTH = tuple(sorted(_OPERATORS, key=len, reverse=True))
_WRITES = frozenset((">", ">>", ">|", "&>", "&>>", "<>"))
_ENDS = frozenset(("&&", "||", ";", ";;", "&", "|", "|&", "(", ")", "\n"))
_PREFIXES = frozenset(
    "sudo env nohup time command builtin exec nice stdbuf timeout xargs then do else if while ! {".split()  # noqa: SIM905
)
_SHELLS = frozenset(("sh", "bash", "zsh", "dash", "ksh"))
_ALL_NAMED = frozenset(("rm", "touch", "truncate", "tee", "unlink", "shred", "rmdir", "mkdir"))
"""Whose every operand is written."""
_WITH_VALUE = {
    "tee": "",
    "truncate": "sr",
    "touch": "dtr",
    "install": "gmotS",
    "timeout": "ks",
    "nice": "n",
    "env": "uC",
    "xargs": "aEeILlnPsd",
    "sudo": "ugpCrtTU",
    "stdbuf": "ioe",
    "cp": "tS",
    "mv": "tS",
    "ln": "tS",
    "shred": "ns",
    "mkdir": "m",
}
"""Short options that take a value, by command."""
_LONG_WITH_VALUE = frozenset("--source --target-directory --suffix --date --reference --size --mode --owner --group".split())  # noqa: SIM905
"""Long ones, of any command, if the value is the next word."""


class _Word:
    """A word: its text, and whether something in it is not known before it runs."""

    __slots__ = ("known", "text")

    def __init__(self, text: str, known: bool) -> None:
        self.text = text
        self.known = known


def written_paths(command: str, cwd: str) -> list[str]:
    """Paths that the command writes, moves or removes; absolute, in the order of the command, each once.

    Args:
        command: as it is given to a shell.
        cwd: absolute; where it runs.
    """
    found: dict[str, None] = {}
    _read(command[:MAX_CHARACTERS], cwd, found, 0)
    return list(found)


def _read(command: str, cwd: str, found: "dict[str, None]", depth: int) -> None:
    here: str | None = cwd
    words: list[_Word] = []
    documents: list[str] = []
    targets: list[_Word] = []
    tokens = _tokens(command)
    pending = ""
    above: list[str | None] = []
    for kind, text, known in tokens:
        if kind == "document":
            documents.append(text)
        elif kind == "word":
            if pending in _WRITES or (pending == ">&" and text != "-"):
                targets.append(_Word(text, known))
            elif not pending:
                words.append(_Word(text, known))
            pending = ""
        elif text in _ENDS:
            here = _command(words, targets, documents, here, found, depth)
            words, targets, documents, pending = [], [], [], ""
            if text == "(":
                above.append(here)
            elif text == ")" and above:  # a subshell's `cd` ends with it
                here = above.pop()
        else:
            pending = text
    _command(words, targets, documents, here, found, depth)


def _command(
    words: "list[_Word]",
    targets: "list[_Word]",
    documents: "list[str]",
    here: "str | None",
    found: "dict[str, None]",
    depth: int,
) -> "str | None":
    """One simple command; the directory after it, None if that is not known."""
    for target in targets if _name_of(words) != "[[" else ():  # there it compares
        _note(target, here, found)
    while words and words[0].known and _is_assignment(words[0].text):
        del words[0]
    name = _name_of(words)
    while name in _PREFIXES:
        words = _after_prefix(name, words[1:])
        name = _name_of(words)
    if not name:
        return here
    rest = words[1:]
    if name in ("cd", "pushd", "popd"):
        named = [word for word in rest if not word.text.startswith("-")]
        return _joined(here, named[0].text) if len(named) == 1 and named[0].known else None
    if name in _SHELLS or name == "eval":
        script = _script_of(name, rest)
        if script is None and documents and not _operands(rest, ""):
            script = documents[0]
        if script is not None and here is not None and depth < MAX_DEPTH:
            _read(script, here, found, depth + 1)
        return here
    for word in _written_by(name, rest, documents, here):
        _note(word, here, found)
    return here


def _written_by(name: str, rest: "list[_Word]", documents: "list[str]", here: "str | None") -> "list[_Word]":
    operands = _operands(rest, _WITH_VALUE.get(name, ""))
    if name in _ALL_NAMED:
        return operands
    if name in ("mv", "cp", "ln", "install", "rsync"):
        return _moved(name, rest, operands, here)
    if name == "sed":
        return _in_place(rest, ("-i", "--in-place"), scripts=("-e", "-f", "--expression", "--file"))
    if name in ("perl", "ruby"):
        return _in_place(rest, ("-i",), scripts=("-e", "-E"))
    if name == "dd":
        return [_Word(word.text[3:], word.known) for word in rest if word.text.startswith("of=")]
    if name in ("apply_patch", "applypatch"):
        texts = [word.text for word in rest] + documents
        return [_Word(path, True) for text in texts for path in patched_paths(text)]
    if name == "git":
        return _git(rest)
    return []


def _moved(name: str, rest: "list[_Word]", operands: "list[_Word]", here: "str | None") -> "list[_Word]":
    into = _value_of(rest, ("-t", "--target-directory"))
    if into is None and len(operands) < 2:
        return operands if name == "mv" else []
    sources = operands if into is not None else operands[:-1]
    target = into if into is not None else operands[-1]
    folder = into is not None or len(sources) > 1 or target.text.endswith("/") or _is_folder(here, target)
    written = [_Word(_inside(target.text, source.text), target.known and source.known) if folder else target for source in sources]
    return [*sources, *written] if name == "mv" else written


def _in_place(rest: "list[_Word]", marks: "tuple[str, ...]", scripts: "tuple[str, ...]") -> "list[_Word]":
    options = [word.text for word in rest if word.text.startswith("-") and len(word.text) > 1]
    short = [option[1:].partition("=")[0] for option in options if not option.startswith("--")]
    marked = any(option.startswith(mark) for option in options for mark in marks if mark.startswith("--"))
    # `-i`, `-i.bak`, `-pi`, `-ni.orig`: an i among letters that take no value.
    marked = marked or any("i" in letters and all(c in "nrEszupwla0" for c in letters[: letters.index("i")]) for letters in short)
    if not marked:
        return []
    files: list[_Word] = []
    script_given = False
    skip = False
    for word in rest:
        if skip:
            skip = False
        elif word.text in scripts:
            script_given = skip = True
        elif any(word.text.startswith(one + "=") for one in scripts if one.startswith("--")):
            script_given = True
        elif word.text.startswith("-") and len(word.text) > 1:
            # `-pie SCRIPT`, `-ne SCRIPT`
            if not word.text.startswith("--") and word.text[-1] == "e" and "-e" in scripts:
                script_given = skip = True
        elif word.text:  # BSD's `-i ''`
            files.append(word)
    return files if script_given else files[1:]


def _git(rest: "list[_Word]") -> "list[_Word]":
    words = list(rest)
    where = ""
    while words and words[0].text.startswith("-"):
        option = words.pop(0).text
        if option in ("-C", "-c", "--git-dir", "--work-tree") and words:
            value = words.pop(0)
            where = value.text if option == "-C" else where
    if not words:
        return []
    verb, args = words[0].text, words[1:]
    if verb == "checkout":
        at = next((i for i, word in enumerate(args) if word.text == "--"), None)
        found = [] if at is None else args[at + 1 :]
    elif verb == "restore":
        if any(word.text in ("-S", "--staged") for word in args) and not any(word.text in ("-W", "--worktree") for word in args):
            return []
        found = _operands(args, "s")
    elif verb in ("rm", "mv"):
        if any(word.text == "--cached" for word in args):
            return []
        found = _operands(args, "")
    else:
        return []
    return [_Word(where + "/" + word.text, word.known) if where else word for word in found]


def patched_paths(patch: str) -> "list[str]":
    """Files of a patch in the form of `apply_patch`: added, updated, deleted, moved."""
    found = []
    for line in patch.split("\n"):
        for mark in ("*** Add File: ", "*** Update File: ", "*** Delete File: ", "*** Move to: "):
            if line.startswith(mark) and line[len(mark) :].strip():
                found.append(line[len(mark) :].strip())  # noqa: PERF401 - two conditions, three loops
    return found


# --- words ----------------------------------------------------------------------------------------------------------------


def _tokens(text: str) -> "list[tuple[str, str, bool]]":
    """Words, operators and here-documents, in order: (kind, text, known)."""
    found: list[tuple[str, str, bool]] = []
    waiting: list[tuple[str, bool]] = []
    """Here-documents whose text begins on the next line: delimiter, and whether tabs are stripped."""
    at, end = 0, len(text)
    heredoc = ""
    while at < end:
        char = text[at]
        if char in " \t\r":
            at += 1
            continue
        if char == "\\" and text[at + 1 : at + 2] == "\n":
            at += 2
            continue
        if char == "#":
            at = _line_end(text, at)
            continue
        if char.isdigit():  # a descriptor before a redirection
            stop = at
            while stop < end and text[stop].isdigit():
                stop += 1
            if text[stop : stop + 1] in ("<", ">"):
                at = stop
                continue
        operator = next((one for one in _BY_LENGTH if text.startswith(one, at)), None)
        if operator is None:
            word, known, at = _word(text, at)
            if heredoc:
                waiting.append((word, heredoc == "<<-"))
                heredoc = ""
            else:
                found.append(("word", word, known))
            continue
        at += len(operator)
        if operator in ("<<", "<<-"):
            heredoc = operator
            continue
        if operator == "\n" and waiting:
            for delimiter, strip in waiting:
                body, at = _document(text, at, delimiter, strip)
                found.append(("document", body, True))
            waiting = []
        found.append(("operator", operator, True))
    return found


def _document(text: str, at: int, delimiter: str, strip: bool) -> "tuple[str, int]":
    lines = []
    while at < len(text):
        stop = _line_end(text, at)
        line = text[at:stop]
        at = stop + 1
        if strip:
            line = line.lstrip("\t")
        if line == delimiter:
            break
        lines.append(line)
    return "\n".join(lines), at


def _word(text: str, at: int) -> "tuple[str, bool, int]":
    """One word from there: its text, whether all of it is known, and where it ends."""
    out: list[str] = []
    known = True
    end = len(text)
    while at < end:
        char = text[at]
        if char in " \t\r\n;&|()<>":
            break
        if char == "\\":
            if text[at + 1 : at + 2] != "\n":
                out.append(text[at + 1 : at + 2])
            at += 2
        elif char == "'":
            stop = text.find("'", at + 1)
            stop = end if stop < 0 else stop
            out.append(text[at + 1 : stop])
            at = stop + 1
        elif char == '"':
            inner, inner_known, at = _quoted(text, at + 1)
            out.append(inner)
            known = known and inner_known
        elif char == "`":
            stop = text.find("`", at + 1)
            at = end if stop < 0 else stop + 1
            known = False
        elif char == "$":
            known = False
            at = _expansion(text, at)
        else:
            out.append(char)
            at += 1
    return "".join(out), known, at


def _quoted(text: str, at: int) -> "tuple[str, bool, int]":
    out: list[str] = []
    known = True
    end = len(text)
    while at < end and text[at] != '"':
        char = text[at]
        if char == "\\" and text[at + 1 : at + 2] in ('"', "\\", "$", "`", "\n"):
            if text[at + 1] != "\n":
                out.append(text[at + 1])
            at += 2
        elif char == "$" and text[at + 1 : at + 2] not in ("", '"', " "):
            known = False
            at = _expansion(text, at)
        elif char == "`":
            stop = text.find("`", at + 1)
            at = end if stop < 0 else stop + 1
            known = False
        else:
            out.append(char)
            at += 1
    return "".join(out), known, at + 1


def _expansion(text: str, at: int) -> int:
    """Where `$…` that begins there ends."""
    after = text[at + 1 : at + 2]
    if after in ("(", "{"):
        close, depth, at = (")" if after == "(" else "}"), 0, at + 1
        while at < len(text):
            if text[at] == after:
                depth += 1
            elif text[at] == close:
                depth -= 1
                if not depth:
                    return at + 1
            elif text[at] == "'":
                stop = text.find("'", at + 1)
                at = len(text) if stop < 0 else stop
            at += 1
        return at
    at += 1
    while at < len(text) and (text[at].isalnum() or text[at] == "_"):
        at += 1
    return at if after.isalnum() or after == "_" else at + 1


def _line_end(text: str, at: int) -> int:
    stop = text.find("\n", at)
    return len(text) if stop < 0 else stop


# --- small things ---------------------------------------------------------------------------------------------------------


def _name_of(words: "list[_Word]") -> str:
    return words[0].text.rpartition("/")[2] if words and words[0].known else ""


def _is_assignment(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.isidentifier()


def _after_prefix(name: str, words: "list[_Word]") -> "list[_Word]":
    """What a command such as `sudo` runs: behind its options, their values, and assignments."""
    values = _WITH_VALUE.get(name, "")
    words = list(words)
    while words:
        text = words[0].text
        if text == "--":
            return words[1:]
        if _is_assignment(text):
            del words[0]
        elif text.startswith("-") and len(text) > 1:
            del words[0]
            if not text.startswith("--") and text[-1] in values and len(text) == 2 and words:
                del words[0]
        else:
            break
    if name == "timeout" and words:
        del words[0]  # how long
    return words


def _operands(words: "list[_Word]", values: str) -> "list[_Word]":
    """Those that are no options. `values`: letters of short options that take the next word."""
    found: list[_Word] = []
    skip = False
    for number, word in enumerate(words):
        if skip:
            skip = False
        elif word.text == "--":
            return found + words[number + 1 :]
        elif word.text.startswith("-") and len(word.text) > 1:
            skip = word.text in _LONG_WITH_VALUE or (len(word.text) == 2 and word.text[1] in values)
        else:
            found.append(word)
    return found


def _value_of(words: "list[_Word]", names: "tuple[str, ...]") -> "_Word | None":
    for number, word in enumerate(words):
        if word.text in names and number + 1 < len(words):
            return words[number + 1]
        for name in names:
            if name.startswith("--") and word.text.startswith(name + "="):
                return _Word(word.text[len(name) + 1 :], word.known)
    return None


def _script_of(name: str, rest: "list[_Word]") -> "str | None":
    if name == "eval":
        return " ".join(word.text for word in rest) if all(word.known for word in rest) else None
    for number, word in enumerate(rest[:-1]):
        if word.text.startswith("-") and not word.text.startswith("--") and word.text.endswith("c"):
            script = rest[number + 1]
            return script.text if script.known else None
    return None


def _inside(folder: str, path: str) -> str:
    return folder.rstrip("/") + "/" + path.rstrip("/").rpartition("/")[2]


def _is_folder(here: "str | None", word: _Word) -> bool:
    import os

    path = _joined(here, word.text)
    return word.known and path is not None and os.path.isdir(path)  # noqa: PTH112 - pathlib costs milliseconds


def _joined(here: "str | None", path: str) -> "str | None":
    if path.startswith("~") or (here is None and not path.startswith("/")):
        return None
    absolute = path if path.startswith("/") else f"{here}/{path}"
    parts: list[str] = []
    for part in absolute.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts) + ("/" if absolute.endswith("/") and parts else "")


def _note(word: _Word, here: "str | None", found: "dict[str, None]") -> None:
    """A number behind `>&` is a descriptor; files of such names are rare enough."""
    if not word.known or not word.text or word.text.isdigit():
        return
    path = _joined(here, word.text)
    if path is not None and not path.startswith("/dev/"):
        found[path] = None
