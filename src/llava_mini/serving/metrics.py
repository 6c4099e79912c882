"""Numbers for Prometheus; none of them tells what was asked or answered."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llava_mini.serving.scheduler import Scheduler

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter("llava_mini_requests", "Answered requests, by status.", ["status"], registry=registry)
        self.tokens = Counter(
            "llava_mini_tokens",
            "Tokens, by kind: prompt, vision (part of prompt), answer.",
            ["kind"],
            registry=registry,
        )
        self.frames = Counter("llava_mini_frames", "Pictures and frames that were asked about.", registry=registry)
        self.first_token = Histogram(
            "llava_mini_first_token_seconds", "From request to first token.", buckets=_SECONDS, registry=registry
        )
        self.whole = Histogram(
            "llava_mini_request_seconds", "From request to last token.", buckets=_SECONDS, registry=registry
        )
        kept, openings = scheduler.assistant.kept, scheduler.assistant.openings
        for name, text, value in (
            ("running", "Answers that are being made.", lambda: scheduler.running),
            ("waiting", "Requests that are prepared or wait.", lambda: scheduler.waiting),
            ("picture_cache_bytes", "Bytes kept of pictures.", lambda: kept.nbytes),
            ("picture_cache_hits", "Pictures that were kept when asked about.", lambda: kept.hits),
            ("picture_cache_misses", "Pictures that had to be encoded.", lambda: kept.misses),
            ("opening_cache_bytes", "Bytes kept of words about pictures.", lambda: openings.nbytes),
            ("opening_cache_hits", "Requests about something that words are kept of.", lambda: openings.hits),
            ("opening_cache_misses", "Requests about something that no words are kept of.", lambda: openings.misses),
        ):
            Gauge(f"llava_mini_{name}", text, registry=registry).set_function(value)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
