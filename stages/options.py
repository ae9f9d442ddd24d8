"""The options (`with`) of each built-in stage, by its name in `uses`."""

from stages.contract import Options
from stages.graphs.agent import AgentOptions
from stages.graphs.cascade import CascadeOptions
from stages.graphs.classify import ClassifyOptions
from stages.graphs.embed import EmbedOptions
from stages.graphs.extract import ExtractOptions
from stages.graphs.judge import JudgeOptions
from stages.graphs.research import ResearchOptions
from stages.graphs.summarize import SummarizeOptions
from stages.graphs.translate import TranslateOptions
from stages.tables.aggregate import AggregateOptions
from stages.tables.checks import ChecksOptions
from stages.tables.dedupe import DedupeOptions
from stages.tables.explode import ExplodeOptions
from stages.tables.sample import SampleOptions

OPTIONS: dict[str, type[Options]] = {
    "extract": ExtractOptions,
    "classify": ClassifyOptions,
    "summarize": SummarizeOptions,
    "cascade": CascadeOptions,
    "agent": AgentOptions,
    "judge": JudgeOptions,
    "translate": TranslateOptions,
    "research": ResearchOptions,
    "embed": EmbedOptions,
    "sql": Options,
    "checks": ChecksOptions,
    "sample": SampleOptions,
    "explode": ExplodeOptions,
    "aggregate": AggregateOptions,
    "dedupe": DedupeOptions,
}
