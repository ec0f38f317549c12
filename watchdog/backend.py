"""What people are told of the backend that computes: nothing, but where a faster one failed its self-check. Pure."""

from adam.contract.records import BackendReport


def shortfall(report: BackendReport | None) -> str:
    """The note that stands in the status for as long as it is so; empty where no faster backend failed."""
    if report is None or not report.failed:
        return ""
    return f"{report.name} computes the selective scan, which is slower than it could be: {'; '.join(report.failed)}"


def backend_news(told: str, report: BackendReport | None) -> tuple[str, str, str]:
    """(what is told now, the kind of a new event or nothing, its text). told: as this gave it last."""
    now = told if report is None else shortfall(report)
    if now == told or report is None:
        return now, "", ""
    if now:
        return now, "backend_failed", now
    return now, "backend", f"{report.name} computes the selective scan, and nothing faster failed"
