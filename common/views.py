"""Settings of the augmentation of images; imports no torch."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]


class Views(BaseModel):
    """Augmentation of one view of an image; see :mod:`common.augment`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop_scale: tuple[float, float] = Field(description="share of the image's area, from and to")
    crop_ratio: tuple[float, float] = Field((1, 1), description="width / height, from and to")
    rotate: float = Field(0, ge=0, le=180, description="largest angle in degrees, to either side")
    flip: Share = Field(0.5, description="chance of a horizontal flip")
    jitter: Share = Field(0, description="chance that brightness and contrast change")
    brightness: Share = Field(0, description="factor between 1 - x and 1 + x")
    contrast: Share = Field(0, description="factor between 1 - x and 1 + x, about the mean")
    blur: Share = Field(0, description="chance of a Gaussian blur")
    blur_sigma: tuple[float, float] = Field((0.1, 2), description="pixels in a view of 224")
    solarize: Share = Field(0, description="chance that values above one half are inverted")

    @model_validator(mode="after")
    def _ranges(self) -> "Views":
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}: {low} to {high} is no range above 0")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale: {self.crop_scale[1]} is more than the image")
        return self
