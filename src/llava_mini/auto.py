"""Register our classes with transformers, so that its Auto classes and pipelines find them."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from llava_mini.config import EfficientNetLiteConfig, LlavaMiniConfig
from llava_mini.inputs.processor import LlavaMiniProcessor
from llava_mini.model.conditional_generation import LlavaMiniForConditionalGeneration
from llava_mini.model.efficientnet_lite import EfficientNetLite
from llava_mini.model.llava_mini import LlavaMiniModel

AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLite)
AutoConfig.register(LlavaMiniConfig.model_type, LlavaMiniConfig)
AutoModel.register(LlavaMiniConfig, LlavaMiniModel)
AutoModelForImageTextToText.register(LlavaMiniConfig, LlavaMiniForConditionalGeneration)
AutoProcessor.register(LlavaMiniConfig, LlavaMiniProcessor)
