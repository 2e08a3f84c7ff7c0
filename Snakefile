# images -> executed notebooks and records -> ledger and generated pages -> html
# Run it with `datafree build` (or `make book`), which also deals with what interrupted builds leave behind.
import shlex
import sys
from pathlib import Path

PROFILE = config.get("profile", "book")
SEEDS = range(5)
SCHEMES = ("inception", "bns", "bns_inception")  # noise is drawn by the chapter itself, in no time
NEEDS_IMAGES = ("02_kw_calibration", "03_kw_distillation", "04_kw_correspondence", "08_udfc")

DATAFREE = shlex.quote(sys.executable) + " -m datafree.cli"
NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("*.ipynb"))
EXECUTED = "_build/executed/{profile}/{name}-seed{seed}.ipynb"
RECORD = "_build/records/{profile}/{name}/seed{seed}.json"
# The images themselves lie under a hash of what made them; this file says which they are.
IMAGES = "_build/images/{profile}/{scheme}-seed{seed}.txt"
STUBS = ["data_stubs/SHA256SUMS"]
PROFILE_FILE = "notebooks/profiles/{profile}.yaml"

# What only draws or assembles the book does not change a measurement.
ASSEMBLY = sorted(str(p) for pattern in (
    "book/build.py", "book/doctor.py", "book/effects.py", "book/equations.py", "book/locks.py", "book/markdown.py",
    "book/pages.py", "book/paper_scale.py", "book/*.md.j2", "book/*.html.j2", "cli.py",
    "evidence/compare.py", "evidence/criteria/*.py", "evidence/ledger.py", "evidence/verdict.py",
) for p in Path("lib/datafree").glob(pattern))
LIBRARY = sorted(str(p) for p in Path("lib/datafree").rglob("*.py") if str(p) not in ASSEMBLY)
# Nor does what only draws or reports change an image.
REPORTING = ("lib/datafree/book/show.py", "lib/datafree/book/plots.py", "lib/datafree/book/run.py", "lib/datafree/evidence/record.py")
GENERATOR = [p for p in LIBRARY if p not in REPORTING]
BOXES = sorted(str(p) for p in Path("book/_ext").glob("*.*"))
PROSE = sorted(str(p) for p in Path("book").rglob("*") if p.is_file() and p.parts[1] not in ("records", "papers"))
EVIDENCE = sorted(str(p) for folder in ("records", "papers") for p in Path("book", folder).rglob("*") if p.is_file())

# A book rendered from another profile is out of date.
MARKER = Path("_build/html/.profile")
if MARKER.is_file() and MARKER.read_text() != PROFILE:
    MARKER.unlink()


wildcard_constraints:
    seed=r"\d+",
    profile=r"\w+",
    scheme="|".join(SCHEMES),


localrules: book, notebooks, images, audit


rule book:
    input: "_build/html/.profile", "_build/ledger.json", "_build/ledger.csv"


rule notebooks:
    input: expand(EXECUTED, profile=PROFILE, name=NOTEBOOKS, seed=0)


rule images:
    input: expand(IMAGES, profile=PROFILE, scheme=SCHEMES, seed=0)


rule audit:
    input: expand(RECORD, profile=PROFILE, name=NOTEBOOKS, seed=SEEDS)
    shell: "{DATAFREE} publish {NOTEBOOKS} --profile {PROFILE}"


# One notebook a core, one thread each: a second thread gains far less than a second notebook beside.
rule synthesise:
    input: GENERATOR, STUBS
    output: IMAGES
    log: "_build/logs/images-{profile}-{scheme}-seed{seed}.log"
    threads: 1
    shell:
        "echo 'synthesising images: {wildcards.scheme} ({wildcards.profile}, seed {wildcards.seed})'; "
        "OMP_NUM_THREADS={threads} {DATAFREE} synthesize --scheme {wildcards.scheme} --profile {wildcards.profile}"
        " --seed {wildcards.seed} > {output} 2> {log} || {{ grep '^datafree:' {log} >&2 || tail -n 5 {log} >&2; exit 1; }}"


def images_of(wildcards):
    wanted = SCHEMES if wildcards.name in NEEDS_IMAGES else ()
    return expand(IMAGES, profile=wildcards.profile, scheme=wanted, seed=wildcards.seed)


# A failed run keeps its notebook as NAME-seedK.failed.ipynb beside the output.
rule notebook:
    input:
        "notebooks/{name}.ipynb", PROFILE_FILE, LIBRARY, STUBS, images_of
    output:
        executed=EXECUTED,
        record=RECORD,
    log: "_build/logs/{profile}-{name}-seed{seed}.log"
    threads: 1
    shell:
        "echo 'running notebook {wildcards.name} ({wildcards.profile}, seed {wildcards.seed})'; "
        "OMP_NUM_THREADS={threads} {DATAFREE} run {wildcards.name} --profile {wildcards.profile} --seed {wildcards.seed}"
        " --out {output.executed} --record {output.record} --no-bar > {log} 2>&1 || {{ grep '^datafree:' {log} >&2 || tail -n 5 {log} >&2; exit 1; }}"


rule ledger:
    input:
        expand(RECORD, profile=PROFILE, name=NOTEBOOKS, seed=0), EVIDENCE, LIBRARY,
        ASSEMBLY, BOXES,
        expand("notebooks/{name}.ipynb", name=NOTEBOOKS), sorted(str(p) for p in Path("tests").rglob("test_*.py"))
    output:
        json="_build/ledger.json",
        csv="_build/ledger.csv",
        pages=directory("_build/pages"),
    log: "_build/logs/ledger.log"
    shell:
        "echo 'drawing up the ledger'; "
        "{DATAFREE} ledger --pages {output.pages} > {log} 2>&1 || {{ grep '^datafree:' {log} >&2 || tail -n 5 {log} >&2; exit 1; }}"


rule html:
    input:
        expand(EXECUTED, profile=PROFILE, name=NOTEBOOKS, seed=0), "_build/ledger.json", "_build/pages",
        PROSE, "_config.yml", "lib/datafree/book/build.py"
    output: "_build/html/.profile"
    shell:
        "echo 'rendering the book'; "
        "{DATAFREE} stage {NOTEBOOKS} --profile {PROFILE} && {DATAFREE} render --profile {PROFILE}"
