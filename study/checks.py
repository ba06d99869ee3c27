"""What a study's file asks for, checked before its folder is made: a night's runs should not end in a misspelt word."""

from ..imaging.errors import InputError
from .definition import STAGES, Study
from .sources import generator_settings


def check_study(study: Study) -> None:
    """Refuses training options, models, presets and channels that do not exist.

    Raises:
        InputError: An option is unknown or out of range, the classifier has not the channels of a sequence set, or a
            model that samples has no such preset or cannot take so many steps.
        UnknownModelError: A model is not known.
    """
    from ..training.classifier import ClassifierTraining, select_channels
    from ..training.option_checks import check_options
    from ..zoo.registry import find_card

    for stage in STAGES:
        check_options(ClassifierTraining, study.options[stage], f"[{stage}] of {study.path}")
    classifier = find_card(study.classifier)
    for name, channels in study.sequences.items():
        if len(set(channels)) < len(channels):
            raise InputError(f"{study.path}: the sequences {name!r} name a channel twice.", "Name each once.")
        select_channels(classifier, channels)
    for source in study.synthetic.values():
        if source.sample is not None:
            generator_settings(source.sample)
