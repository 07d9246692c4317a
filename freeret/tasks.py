"""Which task prior serves a type of task of MTEB."""

MTEB_TASKS = {
    "Retrieval": "question",
    "Reranking": "question",
    "InstructionRetrieval": "question",
    "InstructionReranking": "question",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "Clustering": "classification",
    "ImageClassification": "classification",
    "ImageMultilabelClassification": "classification",
    "ImageClustering": "classification",
    "ZeroShotClassification": "classification",
    "Any2AnyRetrieval": "caption",
    "Any2AnyMultilingualRetrieval": "caption",
    "VisionCentricQA": "question",
    "DocumentUnderstanding": "question",
    "Compositionality": "caption",
}
"""MTEB's type of task -> the task prior; "same meaning" for every other."""
