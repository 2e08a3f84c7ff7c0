# images -> executed notebooks and records -> ledger, equations and other generated pages -> html
# Run it with `datafree build` (or `make book`): that tells Snakemake which runs are out of date, by what their records
# say they were made from (book/plan.py), and deals with what interrupted builds leave behind. Here a run has no inputs
# but the shared images, so that nothing else can start it.
import shlex
import sys
from pathlib import Path

from datafree.book.progress import expected

PROFILE = config.get("profile", "book")
SCHEMES = ("inception", "bns", "bns_inception")
NEEDS_IMAGES = ("02_kw_calibration", "03_kw_distillation", "04_kw_correspondence", "08_udfc", "14_beyond")

DATAFREE = shlex.quote(sys.executable) + " -m datafree.cli"
# A step that failed is told by its one sentence; what was interrupted (exit code 130) need not be told again.
TELL = "|| {{ [ $? = 130 ] || grep '^datafree:' {log} >&2 || tail -n 5 {log} >&2; exit 1; }}"
NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("*.ipynb"))
EXECUTED = "_build/executed/{profile}/{name}-seed{seed}.ipynb"
RECORD = "_build/records/{profile}/{name}/seed{seed}.json"
# The images themselves lie under a hash of what made them; this file, which bears one of the settings, says which they are.
IMAGES = "_build/images/{profile}/{scheme}-" + str(config.get("images", "any")) + "-seed{seed}.txt"
DUE = str(config.get("due", "")).split()  # runs that need their images, as NAME-seedK
LIBRARY = sorted(str(p) for pattern in ("*.py", "*.j2", "*.yaml") for p in Path("lib/datafree").rglob(pattern))
SOURCES = [f"notebooks/{name}.ipynb" for name in NOTEBOOKS]
TESTS = sorted(str(p) for p in Path("tests").rglob("test_*.py"))
PROSE = sorted(str(p) for p in Path("book").rglob("*") if p.is_file() and p.parts[1] not in ("records", "repeats", "papers"))
EVIDENCE = sorted(str(p) for folder in ("records", "repeats", "papers") for p in Path("book", folder).rglob("*") if p.is_file())

# The rendered pages take the folder's place as a whole, so that it holds the mark of one profile.
HTML = f"_build/html/.{PROFILE}"


wildcard_constraints:
    seed=r"\d+",
    profile=r"\w+",
    scheme="|".join(SCHEMES),


localrules: book, notebooks, images, audit


rule book:
    input: HTML, "_build/ledger.json", "_build/ledger.csv"


rule notebooks:
    input: expand(EXECUTED, profile=PROFILE, name=NOTEBOOKS, seed=0)


rule images:
    input: expand(IMAGES, profile=PROFILE, scheme=SCHEMES, seed=0)


rule audit:
    input: [RECORD.format(profile=PROFILE, name=name, seed=seed) for name, _, seed in (run.rpartition("-seed") for run in DUE)]
    shell: "{DATAFREE} publish --profile {PROFILE}"


# First of all, because several chapters wait for them.
rule synthesise:
    output: IMAGES
    log: "_build/logs/images-{profile}-{scheme}-seed{seed}.log"
    priority: 10**9
    threads: 1
    shell:
        "echo 'synthesising images: {wildcards.scheme} ({wildcards.profile}, seed {wildcards.seed})'; "
        "OMP_NUM_THREADS={threads} {DATAFREE} synthesize --scheme {wildcards.scheme} --profile {wildcards.profile}"
        " --seed {wildcards.seed} > {output} 2> {log} " + TELL


def images_of(wildcards):
    due = f"{wildcards.name}-seed{wildcards.seed}" in DUE and wildcards.name in NEEDS_IMAGES
    wanted = SCHEMES if due else ()
    return expand(IMAGES, profile=wildcards.profile, scheme=wanted, seed=wildcards.seed)


# One notebook a core, one thread each: a second thread gains far less than a second notebook beside. The longest first.
# A failed run keeps its notebook as NAME-seedK.failed.ipynb beside the output.
rule notebook:
    input: images_of
    output:
        executed=EXECUTED,
        record=RECORD,
    log: "_build/logs/{profile}-{name}-seed{seed}.log"
    params: begun="_build/logs/{profile}-{name}-seed{seed}.begun"
    priority: lambda wildcards: expected(wildcards.name, wildcards.profile) or 0
    threads: 1
    shell:
        "touch {params.begun}; "
        "OMP_NUM_THREADS={threads} {DATAFREE} run {wildcards.name} --profile {wildcards.profile} --seed {wildcards.seed}"
        " --out {output.executed} --record {output.record} --no-bar > {log} 2>&1 " + TELL


rule ledger:
    input: expand(RECORD, profile=PROFILE, name=NOTEBOOKS, seed=0), EVIDENCE, LIBRARY, SOURCES
    output:
        json="_build/ledger.json",
        csv="_build/ledger.csv",
        pages=directory("_build/pages"),
    log: "_build/logs/ledger.log"
    shell:
        "echo 'drawing up the ledger'; "
        "{DATAFREE} ledger --pages {output.pages} > {log} 2>&1 " + TELL


# Apart from the ledger, because only this page names tests.
rule equations:
    input: TESTS, LIBRARY, SOURCES, "book/papers/claims.yaml"
    output: "_build/equations.md"
    log: "_build/logs/equations.log"
    shell:
        "{DATAFREE} equations {output} > {log} 2>&1 " + TELL


rule html:
    input:
        expand(EXECUTED, profile=PROFILE, name=NOTEBOOKS, seed=0), "_build/ledger.json", "_build/pages",
        "_build/equations.md", PROSE, LIBRARY, SOURCES, "_config.yml"
    output: HTML
    shell:
        "echo 'rendering the book'; "
        "{DATAFREE} stage {NOTEBOOKS} --profile {PROFILE} && {DATAFREE} render --profile {PROFILE}"
