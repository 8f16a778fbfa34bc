"""The report of a conformance run: what was run where, what each case said, which planted faults were seen."""

from __future__ import annotations

from pathlib import Path

from turbobench import paths
from turbobench.conformance.cases import AttentionCase, RowCase, all_cases
from turbobench.conformance.finding import Finding
from turbobench.conformance.units import OP_UNITS
from turbobench.conformance.verify import Verified

_MARKS = {"passed": "ok", "failed": "**FAILED**", "unsupported": "–"}
_WHERE = {
    "CPU": "computed by this CPU backend",
    "device": "computed by the device",
    "software driver": "computed by a software driver on the CPU: the kernels ran, no GPU did",
}


def write(verified: Verified, folder: Path) -> Path:
    """Write `BACKEND.md` beside the records; returns its path."""
    path = folder / f"{verified.header['backend']}.md"
    with paths.atomic_path(path) as temporary:
        temporary.write_text(render(verified), encoding="utf-8")
    return path


def render(verified: Verified) -> str:
    """Return the report as Markdown."""
    sections = [_head(verified), _failures(verified), _rows(verified), _attention(verified), _programs(verified)]
    return "\n\n".join(section for section in (*sections, _faults(verified)) if section) + "\n"


def summary(verified: Verified) -> str:
    """Return one line: how many cases passed, failed, are unsupported and have not been run."""
    n_checks = sum(case.n_checks for case in verified.cases)
    counts = {kind: sum(case.outcome == kind for case in verified.cases) for kind in _MARKS}
    text = f"{counts['passed']} cases passed ({n_checks:,} comparisons), {counts['failed']} failed"
    text += f", {counts['unsupported']} are beyond what is promised and unsupported"
    return text + (f", {len(verified.missing)} were not run" if verified.missing else "")


def _head(verified: Verified) -> str:
    h = verified.header
    devices = "; ".join(h["devices"])
    facts = {
        "ran on": f"{h['device']}, {h['description']}: {_WHERE[h['executed']]}",
        "devices": devices if devices and devices != h["description"] else "",
        "machine": f"{h['cpu']}, {h['system']}",
        "date": h["date"],
        "tree": h["tree_id"],
        "build": f"{h['build_id']}, {h['compiler']}" + (f", for {', '.join(h['archs'])}" if h["archs"] else ""),
        "notes": "; ".join(h["notes"]),
    }
    lines = [f"| {name} | {text} |" for name, text in facts.items() if text]
    table = "\n".join(["| | |", "|---|---|", *lines])
    made = f"Made by `turbobench verify --backend {h['backend']}`; the records are in {h['backend']}.jsonl."
    return f"# Conformance of {h['backend']}\n\n{made}\n\n**{summary(verified)}.**\n\n{table}"


def _failures(verified: Verified) -> str:
    if not verified.failed:
        return ""
    return "## What failed\n\n" + "\n".join(f"- {case.case}: {case.reason}" for case in verified.failed)


def _rows(verified: Verified) -> str:
    found = {case.case: case for case in verified.cases}
    lines = [
        f"| {case.type_name} | {case.op} | {_mark(found.get(case.id))} | {_worst(found.get(case.id))} |"
        for case in all_cases()
        if isinstance(case, RowCase)
    ]
    text = (
        "## Cache rows\n\nThe committed golden vectors, random and extreme blocks (zeros, infinities, NaN, denormals, "
        "ties), against the numpy codec: the same bytes and the same floats."
    )
    return "\n".join([text, "", "| type | op | | worst |", "|---|---|---|---|", *lines])


def _attention(verified: Verified) -> str:
    found = {case.case: case for case in verified.cases}
    cases = [case for case in all_cases() if isinstance(case, AttentionCase)]
    heads = list(dict.fromkeys(case.heads for case in cases))
    names = [str(k) if k == v else f"{k}/{v}" for k, v in heads]
    lines = []
    for pair in dict.fromkeys(case.pair for case in cases):
        of_pair = [found.get(case.id) for case in cases if case.pair == pair]
        worst = _largest([case for case in of_pair if case is not None])
        lines.append(f"| {pair} | {' | '.join(map(_mark, of_pair))} | {worst} |")
    text = (
        "## FLASH_ATTN_EXT\n\nBy head size (K/V where they differ), on caches as llama.cpp lays them out: 1 to 75 "
        "queries, odd and whole numbers of positions, 1 to 32 sequences, GQA, masks, ALiBi, softcap, sinks, extreme "
        "input. Against attention in float64 (NMSE, at most 1e-5; where K and V are f16 it is llama.cpp's own kernel, "
        "and its own bound, 5e-4), and by probes that read single values of V (off, relative to the block's largest) "
        "and differences of two values of K (off, relative to the logits' range): a codebook step is 0.008, and "
        "half of it is too much. –: refused, and not promised."
    )
    worst_heads = "NMSE | V off | K off"
    table = ["", f"| K/V | {' | '.join(names)} | {worst_heads} |", "|---|" + "---|" * (len(heads) + 3), *lines]
    return "\n".join([text, *table])


def _largest(cases: list[Finding]) -> str:
    kinds = ("NMSE", "V off, of its block", "K off, of its range")
    cells = []
    for kind in kinds:
        values = [case.worst[kind] for case in cases if kind in case.worst]
        cells.append(f"{max(values):.1e}" if values else "")
    return " | ".join(cells)


def _programs(verified: Verified) -> str:
    found = {case.case: case for case in verified.cases}
    lines = []
    for unit in OP_UNITS:
        case = found.get(unit.id)
        if case is not None:
            refused = int(case.worst.get("refused, not promised", 0))
            lines.append(f"| {unit.op} | {unit.about} | {_mark(case)} | {case.n_checks} | {refused or ''} |")
    if not lines:
        return ""
    text = "## test-backend-ops\n\n" + (
        "The fast paths against ggml's reference path on the CPU; rows have no second path here."
        if verified.header["backend"] == "cpu"
        else "Against the CPU backend of the same build."
    )
    return "\n".join([text, "", "| op | | | compared | refused, not promised |", "|---|---|---|---|---|", *lines])


def _faults(verified: Verified) -> str:
    if not verified.faults:
        return ""
    lines = [
        f"| {fault['fault']} | {'seen' if fault['caught'] else '**NOT SEEN**'} | {fault['by']} |"
        for fault in verified.faults
    ]
    text = "## Planted faults\n\nEach in a copy of the build's library with the objects concerned compiled again."
    return "\n".join([text, "", "| fault | | by |", "|---|---|---|", *lines])


def _mark(case: Finding | None) -> str:
    return "not run" if case is None else _MARKS[case.outcome]


def _worst(case: Finding | None) -> str:
    return "" if case is None else ", ".join(f"{kind} {value:g}" for kind, value in case.worst.items())
