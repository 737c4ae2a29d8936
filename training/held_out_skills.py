"""Tools of evaluation alone: their names and requests are in no training document.

Contract: plain data, in the form of `skills.py`.
"""

from training.skills import Skill

HELD_OUT_SKILLS = (
    Skill(
        "tide",
        "get_tide_table",
        "Get the tide of a harbor.",
        "harbor: city",
        "What is the tide in {0}?|When is the tide in {0}?|Tell me the tide at {0}.",
        "The tide in {0}",
        "high: time; low: time",
    ),
    Skill(
        "pizza",
        "bake_pizza",
        "Bake pizza for delivery.",
        "quantity: small; size: =small,medium,large",
        "Bake {0} {1} pizza.|I want {0} {1} pizza.|Deliver {0} {1} pizza.",
        "Done",
        "status: status; ready_at: time",
    ),
    Skill(
        "bike",
        "rent_bike",
        "Rent a bike at a station.",
        "station: city; hours: small",
        "Rent a bike at the station {0} for {1} hours.|I need a bike at {0} for {1} hours.",
        "Done",
        "status: status; price: number",
    ),
    Skill(
        "temperature",
        "set_thermostat",
        "Set the temperature of a room.",
        "degrees: small",
        "Set the room to {0} degrees.|Make the room {0} degrees warm.",
        "Done",
        "status: status",
    ),
    Skill(
        "population",
        "get_population",
        "Get the population of a city.",
        "city: city",
        "What is the population of {0}?|How many people live in {0}?",
        "The population of {0}",
        "population: distance",
    ),
    Skill(
        "table",
        "reserve_table",
        "Reserve a table in a restaurant.",
        "name: name; guests: small; time: time",
        "Reserve a table for {0}, {1} people, at {2}.|{0} needs a table for {1} at {2}.",
        "Done",
        "status: status; table: small",
    ),
)
