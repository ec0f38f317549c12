"""Real input: the standard library; and, as a campaign, the kernel's and Python's documentation and twenty PDF files from Debian."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from real_input import listed, not_accounted_for, not_in_file, records, share_of_words, unpacked

from adam.contract.config_forge import Source

PEAK_BYTES = 1_500_000_000
SAMPLE = 1000
# Of differing producers: pdfTeX, xdvipdfmx, groff and TeX by Ghostscript, Apache FOP, DBLaTeX, Prawn, ReportLab; several columns, Japanese.
PDFS = {
    "auto-multiple-choice-doc-pdf": "doc/auto-multiple-choice/auto-multiple-choice.fr.pdf",
    "bash-doc": "doc/bash/bashref.pdf",
    "debian-policy": "doc/debian-policy/policy.pdf.gz",
    "debian-refcard": "doc/debian-refcard/refcard-en-a4.pdf.gz",
    "debmake-doc": "doc/debmake-doc/debmake-doc.ja.pdf",
    "docbook-xsl-doc-pdf": "doc/docbook-xsl-doc-pdf/doc/reference.pdf.gz",
    "expeyes-doc-en": "expeyes/doc/en-eyes.pdf",
    "fasta3-doc": "doc/fasta3/fasta_guide.pdf",
    "gnuplot-doc": "doc/gnuplot/gnuplot.pdf",
    "graphviz-doc": "doc/graphviz/pdf/cdt.3.pdf.gz",
    "gri-pdf-doc": "doc/gri/gri.pdf.gz",
    "lilypond-doc-pdf-hu": "doc/lilypond/html/Documentation/essay.hu.pdf",
    "live-manual-pdf": "doc/live-manual/pdf/live-manual.landscape.en.letter.pdf.gz",
    "mrbayes-doc": "doc/mrbayes/Manual_MrBayes_v3.2.pdf",
    "nauty-doc": "doc/nauty/nug28.pdf",
    "pari-doc": "pari/doc/refcard-ell.pdf",
    "python-reportlab-doc": "doc/python-reportlab-doc/reportlab-userguide.pdf",
    "ruby-prawn-doc": "doc/ruby-prawn/manual.pdf.gz",
    "siscone-doc-pdf": "doc/siscone-doc-pdf/pdf/refman.pdf.gz",
    "valgrind": "doc/valgrind/valgrind_manual.pdf.gz",
}
# pypdf and pdftotext agree on this share of the words; a file that is drawn in columns and tables breaks words otherwise.
WORDS_FOUND, WORDS_FOUND_OF_ALL = 0.75, 0.95


def check_sums(shards: Path) -> None:
    """Read = written + dropped, for each source; of every reason there is an example."""
    manifest, known = json.loads((shards / "manifest.json").read_text()), listed(shards)
    assert sum(source["files"] for source in manifest["sources"]) == len(known)
    for source in manifest["sources"]:
        assert source["documents_read"] == source["documents_written"] + sum(source["dropped"].values())
        assert set(source.get("examples", {})) == set(source["dropped"])
        shown = {entry["skipped"] for entry in manifest["skipped"] if entry["source"] == source["name"]}
        assert shown == set(source["files_skipped"])
    counted = sum(number for source in manifest["sources"] for number in source["files_skipped"].values())
    assert counted == sum(map(bool, known.values()))


def test_the_standard_library_is_accounted_for_file_by_file(bench) -> None:
    bench.keys["sources"] = (Source(kind="stdlib"),)
    bench.shards()
    check_sums(bench.paths.shards)
    known = listed(bench.paths.shards)
    assert not_accounted_for(Path(sysconfig.get_paths()["stdlib"]), known) == []
    assert "folder_left_out" in known.values()
    found = [record for record in records(bench.paths.shards) if not record["path"].endswith("topics.py")]
    for record in random.Random(1).sample(found, SAMPLE):
        assert not_in_file(record) == ""
    read = {path for path, skipped in known.items() if not skipped}
    kept = {record["path"] for record in found}
    assert len(kept) > 0.9 * len(read)
    kept_or_short = {path for path in read if path in kept or Path(path).stat().st_size < 64}
    assert len(read - kept_or_short) <= 30  # equal to another one


def unpack(packages: list[str], folder: Path) -> None:
    """Debian packages, fetched and laid out below `folder`/PACKAGE; nothing is installed."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("no apt-get here: the input comes in Debian packages")
    folder.mkdir()
    fetched = subprocess.run(
        ["apt-get", "download", *packages], cwd=folder, capture_output=True, text=True, check=False
    )
    if fetched.returncode:
        pytest.skip(f"apt-get can't fetch the packages: {fetched.stderr.strip().splitlines()[-1:]}")
    for deb in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", deb, folder / deb.name.split("_")[0]], check=True)


def pdf_words(path: Path, tools: Path) -> str:
    """The text of a PDF file by poppler's pdftotext, out of an unpacked package."""
    libraries = ":".join(map(str, tools.glob("libpoppler*/usr/lib/*")))
    command = [tools / "poppler-utils" / "usr" / "bin" / "pdftotext", "-", "-"]
    done = subprocess.run(
        command,
        input=unpacked(path),
        env={**os.environ, "LD_LIBRARY_PATH": libraries},
        capture_output=True,
        check=False,
    )
    if done.returncode == 127:
        pytest.skip(f"pdftotext lacks a library here: {done.stderr.decode()}")
    return done.stdout.decode()


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_debian_documentation_is_accounted_for_file_by_file(tmp_path) -> None:
    packages, tools, pdfs = tmp_path / "packages", tmp_path / "tools", tmp_path / "pdf"
    unpack(["linux-doc-6.1", "python3.11-doc", *PDFS], packages)
    unpack(["poppler-utils", "libpoppler126"], tools)
    pdfs.mkdir()
    for package, path in PDFS.items():
        shutil.copy(packages / package / "usr" / "share" / path, pdfs)
    folders = [packages / "linux-doc-6.1" / "usr" / "share", packages / "python3.11-doc" / "usr" / "share", pdfs]
    run = tmp_path / "run"
    run.mkdir()
    adamctl = [sys.executable, "-P", "-m", "adam.daemon"]
    texts = [argument for folder in folders for argument in ("--text", str(folder))]
    subprocess.run([*adamctl, "init", *texts, "--out", str(run / "adam.toml")], check=True)
    subprocess.run([*adamctl, "forge", "--run", str(run)], check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < PEAK_BYTES

    check_sums(run / "shards")
    known = listed(run / "shards")
    for folder in folders:
        assert not_accounted_for(folder, known) == []
    found = list(records(run / "shards"))
    text = [record for record in found if not record["path"].startswith(f"{pdfs}/")]
    wrong = [
        (record["path"], line) for record in random.Random(1).sample(text, SAMPLE) if (line := not_in_file(record))
    ]
    assert wrong == []
    shares = {}
    for path in sorted(pdfs.iterdir()):
        own = [record["text"] for record in found if record["path"] == str(path)]
        shares[path.name] = share_of_words(pdf_words(path, tools), own)
    print({name: round(share, 3) for name, share in shares.items()})
    assert min(shares.values()) >= WORDS_FOUND
    assert sum(shares.values()) / len(shares) >= WORDS_FOUND_OF_ALL
