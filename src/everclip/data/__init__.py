"""Image datasets: where images come from, how they are decoded, cached and augmented."""

from everclip.data.augment import TrainingView, training_batch
from everclip.data.cache import cache_dir, cache_key, embedding_cache, streamed_cache
from everclip.data.decode import IMAGE_SUFFIXES, load_rgb
from everclip.data.embeddings import EmbeddingData, LabeledEmbeddings, read_embeddings
from everclip.data.folders import FolderImages, ImageFolder, read_folder, read_unlabeled
from everclip.data.images import DecodedImages, Images, View, ViewedImages, decoded, viewed
from everclip.data.source import BadImage, ImageSource, Joined, Reduced, few_shot, split
from everclip.data.texts import read_texts

__all__ = [
    "IMAGE_SUFFIXES",
    "BadImage",
    "DecodedImages",
    "EmbeddingData",
    "FolderImages",
    "ImageFolder",
    "ImageSource",
    "Images",
    "Joined",
    "LabeledEmbeddings",
    "Reduced",
    "TrainingView",
    "View",
    "ViewedImages",
    "cache_dir",
    "cache_key",
    "decoded",
    "embedding_cache",
    "few_shot",
    "load_rgb",
    "read_embeddings",
    "read_folder",
    "read_texts",
    "read_unlabeled",
    "split",
    "streamed_cache",
    "training_batch",
    "viewed",
]
