"""No example of a property is timed: machines are noisy, and a timed assertion says nothing of the code."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
