"""Preflight: what this machine and a survey's servers offer, each with what to do where they don't."""

from pipeline.doctor.check import Check
from pipeline.doctor.examine import examine

__all__ = ["Check", "examine"]
