"""Image datasets: where images come from, how they are decoded, cached and augmented."""

from everclip.data.augment import TrainingView, training_batch
from everclip.data.cache import CacheFile, cache_dir, cache_key, embedding_cache, streamed_cache, verify_cache
from everclip.data.checking import Checked, Copies, brief, check
from everclip.data.decode import IMAGE_SUFFIXES, load_rgb, stated_pixels
from everclip.data.door import How, ImageFolder, holds_images, read, read_folder, read_images, read_paths, read_tasks
from everclip.data.embeddings import EmbeddingData, LabeledEmbeddings, labeled_embeddings, read_embeddings
from everclip.data.folders import FolderImages
from everclip.data.found import Entry, Found, LabeledImages, Unlabeled
from everclip.data.given import DatasetImages, GivenImage, GivenImages, LabeledDataset
from everclip.data.images import (
    DecodedImages,
    Images,
    View,
    ViewedImages,
    content_key,
    decoded,
    view_pixels,
    viewed,
    views,
)
from everclip.data.layout import CARD_NAME, left_out_of, steps_of
from everclip.data.names import (
    DEFAULT_TEMPLATES,
    check_class_names,
    check_encodable,
    check_templates,
    plain_name,
    shown_name,
    task_name,
)
from everclip.data.sheet import contact_sheet
from everclip.data.source import MAX_PIXELS, BadImage, ImageSource, Joined, Reduced, few_shot, split
from everclip.data.texts import read_texts

__all__ = [
    "CARD_NAME",
    "DEFAULT_TEMPLATES",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "BadImage",
    "CacheFile",
    "Checked",
    "Copies",
    "DatasetImages",
    "DecodedImages",
    "EmbeddingData",
    "Entry",
    "FolderImages",
    "Found",
    "GivenImage",
    "GivenImages",
    "How",
    "ImageFolder",
    "ImageSource",
    "Images",
    "Joined",
    "LabeledDataset",
    "LabeledEmbeddings",
    "LabeledImages",
    "Reduced",
    "TrainingView",
    "Unlabeled",
    "View",
    "ViewedImages",
    "brief",
    "cache_dir",
    "cache_key",
    "check",
    "check_class_names",
    "check_encodable",
    "check_templates",
    "contact_sheet",
    "content_key",
    "decoded",
    "embedding_cache",
    "few_shot",
    "holds_images",
    "labeled_embeddings",
    "left_out_of",
    "load_rgb",
    "plain_name",
    "read",
    "read_embeddings",
    "read_folder",
    "read_images",
    "read_paths",
    "read_tasks",
    "read_texts",
    "shown_name",
    "split",
    "stated_pixels",
    "steps_of",
    "streamed_cache",
    "task_name",
    "training_batch",
    "verify_cache",
    "view_pixels",
    "viewed",
    "views",
]
