"""The table of supervised tasks: GLUE and SuperGLUE as T5 reads them, SQuAD, summaries, translation, MBPP."""

from mixlm.data.supervised import formats
from mixlm.data.supervised.formats import Classes, Format, Regression, Text
from mixlm.errors import UserError, nearest

ENTAILMENT = ("entailment", "not_entailment")
TRUTH = ("False", "True")
F1 = ("f1", "accuracy")

_TABLE: tuple[Format, ...] = (
    # GLUE
    Classes(
        "cola", ("sentence",), ("unacceptable", "acceptable"), "glue/cola", ("matthews",),
        columns=("source", "label", "star", "sentence"),
    ),
    Classes("sst2", ("sentence",), ("negative", "positive"), "glue/sst2"),
    Classes("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), "glue/mrpc", F1),
    Regression("stsb", ("sentence1", "sentence2"), "glue/stsb", ("pearson", "spearman")),
    Classes("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), "glue/qqp", F1),
    Classes(
        "mnli", ("hypothesis", "premise"), ("entailment", "neutral", "contradiction"), "glue/mnli",
        validation="validation_matched",
    ),
    Classes("qnli", ("question", "sentence"), ENTAILMENT, "glue/qnli"),
    Classes("rte", ("sentence1", "sentence2"), ENTAILMENT, "glue/rte"),
    # SuperGLUE
    Classes("boolq", ("passage", "question"), TRUTH, "super_glue/boolq"),
    Classes(
        "cb", ("hypothesis", "premise"), ("entailment", "contradiction", "neutral"), "super_glue/cb",
        ("accuracy", "macro_f1"),
    ),
    Classes("copa", ("choice1", "choice2", "premise", "question"), ("choice1", "choice2"), "super_glue/copa"),
    Classes(
        "multirc", ("question", "answer", "paragraph"), TRUTH, "super_glue/multirc", ("multirc",),
        group=("question", "paragraph"),
    ),
    Text(
        "record", "record query: {query} entities: {entities} passage: {passage}", "{answer}",
        ("query", "entities", "passage", "answers"), "super_glue/record", ("squad",), formats.record_query,
    ),
    Classes("superglue_rte", ("hypothesis", "premise"), ENTAILMENT, "super_glue/rte", prefix="rte"),
    Classes("wic", ("sentence1", "sentence2", "word"), TRUTH, "super_glue/wic"),
    Text(
        "wsc", "wsc: {marked}", "{span1_text}", ("text", "span1_text", "span2_text", "span2_index", "label"),
        "super_glue/wsc.fixed", ("accuracy",), formats.wsc, formats.same_referent,
    ),
    # Text to text
    Text(
        "squad", "question: {question} context: {context}", "{answer}", ("question", "context", "answers"),
        "squad/v1.1", ("squad",), formats.squad,
    ),
    Text("xsum", "summarize: {document}", "{summary}", ("document", "summary"), "xsum", ("rouge",)),
    Text("cnn_dm", "summarize: {article}", "{highlights}", ("article", "highlights"), "cnn_dailymail", ("rouge",)),
    Text(
        "wmt_ende", "translate English to German: {en}", "{de}", ("en", "de"), "wmt14_translate/de-en", ("bleu",),
        columns=("en", "de"),
    ),
    Text(
        "wmt_enfr", "translate English to French: {en}", "{fr}", ("en", "fr"), "wmt14_translate/fr-en", ("bleu",),
        columns=("en", "fr"),
    ),
    Text(
        "mbpp", "mbpp: {text} {tests}", "{code}", ("task_id", "text", "code", "test_list"), "mbpp", ("pass_at_k",),
        formats.mbpp, formats.unescape, formats.mbpp_split,
    ),
)  # fmt: skip
TASKS = {task.name: task for task in _TABLE}


def task_named(name: str) -> Format:
    """The task of that name; UserError with the nearest one."""
    if name not in TASKS:
        raise UserError(f"There is no task {name!r}, only {', '.join(TASKS)}.{nearest(name, TASKS)}")
    return TASKS[name]
