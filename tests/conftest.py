"""No example of a property is timed: machines are noisy, and a timed assertion says nothing of the code."""

from hypothesis import HealthCheck, Phase, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "mutants",  # the same examples for each mutant, and no time for making the one that kills it smaller
    settings.get_profile("untimed"),
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("untimed")
