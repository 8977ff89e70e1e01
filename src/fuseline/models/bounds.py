"""Bounds of settings that components of several files share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Width = Annotated[int, Field(ge=1, le=65536)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
