"""What a shell command writes, told without running it; and that whatever is told is written by a real shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sudocode_coordination.hooks.shell import patched_paths, written_paths

CASES = [
    ("(cd a; (cd b; rm x); rm y); rm z", ["a/b/x", "a/y", "z"]),
    ("pushd s && rm a && popd && rm b", ["s/a"]),
    ("[[ a > b ]] && rm c", ["c"]),
    ("echo hi > a.py", ["a.py"]),
    ("echo hi >> log/a.txt 2>/dev/null", ["log/a.txt"]),
    ("cmd &> all.log; cmd >& b.log; cmd 2>&1", ["all.log", "b.log"]),
    ("cmd 2>err.log 1>out.log", ["err.log", "out.log"]),
    ("cat < in > out", ["out"]),
    ("cat <<'EOF' > b.py\nx > y\nrm z\nEOF\nrm c.py", ["b.py", "c.py"]),
    ("cat > a <<-END\n\tx\n\tEND\nrm b", ["a", "b"]),
    ("cd src && sed -i 's/a/b/' x.py y.py", ["src/x.py", "src/y.py"]),
    ("sed -i.bak -e s/a/b/ x", ["x"]),
    ("sed -i '' 's/x/y/' mac.py", ["mac.py"]),
    ("sed --in-place=.b 's/x/y/' gnu.py", ["gnu.py"]),
    ("sed -n 5p x.py", []),
    ("sed -e s/i/j/ x.py", []),
    ("perl -pi -e 's/a/b/' q.py", ["q.py"]),
    ("perl -ne print q.py", []),
    ("mv a.py b.py", ["a.py", "b.py"]),
    ("mv a b c/", ["a", "b", "c/a", "c/b"]),
    ("cp -t d a b/e", ["d/a", "d/e"]),
    ("cp -r a b", ["b"]),
    ("ln -s target link", ["link"]),
    ("rm -rf build/ # c.py", ["build/"]),
    ("touch -d yesterday t.py", ["t.py"]),
    ("tee -a one two", ["one", "two"]),
    ("dd if=a of=b bs=1", ["b"]),
    ("git checkout -- x.py 'y z.py'", ["x.py", "y z.py"]),
    ("git checkout main", []),
    ("git -C sub restore --source HEAD~1 f", ["sub/f"]),
    ("git restore --staged f", []),
    ("git rm f && git mv g h && git rm --cached i", ["f", "g", "h"]),
    ("git commit -am x", []),
    ("sudo -u root tee out.txt", ["out.txt"]),
    ("FOO=1 bash -c 'echo > \"in ner.py\"'", ["in ner.py"]),
    ("bash <<'X'\nrm inside\nX", ["inside"]),
    ("eval 'rm e'", ["e"]),
    ("timeout 5 rm slow", ["slow"]),
    ("env A=b nice -n 5 rm n", ["n"]),
    ("echo $X > $Y", []),
    ('echo > "$HOME/x"', []),
    ("x=$(rm notme) ; rm yes", ["yes"]),
    ("cd $SOMEWHERE && rm unknown", []),
    ("cd /etc && rm hosts", ["/etc/hosts"]),
    ("(cd x; rm y)", ["x/y"]),
    ("if true; then rm a; else rm b; fi", ["a", "b"]),
    ("for f in *; do rm $f; done", []),
    ("ls | grep x || rm last", ["last"]),
    ("a.sh \\\n > cont", ["cont"]),
    ("rm ~/x", []),
    ("rm -- -odd", ["-odd"]),
    ("echo 'it''s' > 'q'\"uo\"ted", ["quoted"]),
    ("", []),
    ("'unclosed > x", []),
    ("cat <<EOF", []),
]


@pytest.mark.parametrize(("command", "written"), CASES)
def test_what_a_command_writes(command: str, written: list[str]) -> None:
    assert written_paths(command, "/repo") == [path if path.startswith("/") else f"/repo/{path}" for path in written]


def test_patches() -> None:
    patch = "*** Begin Patch\n*** Add File: new file.py\n+x\n"
    patch += "*** Update File: a.py\n*** Move to: b.py\n@@\n*** Delete File: c\n*** End Patch"
    assert patched_paths(patch) == ["new file.py", "a.py", "b.py", "c"]
    assert written_paths(f"apply_patch <<'E'\n{patch}\nE", "/r") == ["/r/new file.py", "/r/a.py", "/r/b.py", "/r/c"]


@settings(max_examples=300)
@given(
    st.text(alphabet="ab/ \t\n'\"\\$(){}<>&|;#`-=*~1", max_size=40),
    st.sampled_from(["", "rm ", "sed -i ", "mv ", "git checkout -- "]),
)
def test_nothing_that_is_typed_breaks_it(text: str, begin: str) -> None:
    for path in written_paths(begin + text, "/repo"):
        assert path.startswith("/")


@pytest.mark.parametrize(
    "command",
    [
        "echo x > 'a b' && cp 'a b' c && mv c d/",
        "printf 'one\\n' | tee e f > g; sed -i s/one/two/ e",
        "(cd d && touch sub) && touch out",
        "cd d && { echo y; } >> h 2>&1; cd .. && touch i",
        'bash -c "echo z > j; ln -s j k"',
    ],
)
def test_a_real_shell_writes_what_is_told(command: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    before = {str(path) for path in tmp_path.rglob("*")}
    told = set(written_paths(command, str(tmp_path)))
    subprocess.run(["bash", "-ec", command], cwd=tmp_path, check=True)
    fresh = {str(path) for path in tmp_path.rglob("*")} - before
    assert fresh <= told
    assert all(Path(path).exists() or path.endswith("/c") for path in told)
