"""Tools that only evaluation knows: their names and requests are in no training document.

Contract: plain data, in the form of `skills.py`.
"""

from training.skills import Skill

HELD_OUT_SKILLS = (
    Skill(
        "tide",
        "get_tide_table",
        "Get the tide of a harbor.",
        "harbor: city; day: =today,tomorrow",
        """What is the tide in {0}?|When is the tide in {0} {1}?|Tell me the tide at {0}.""",
        "The tide in {0}",
        "high: time; low: time",
    ),
    Skill(
        "visitors",
        "count_visitors",
        "Count the visitors of a museum.",
        "museum: name",
        """How many visitors did the museum {0} have?|Count the visitors of the museum {0}.""",
        "The number of visitors of {0}",
        "visitors: int",
    ),
    Skill(
        "pizza",
        "bake_pizza",
        "Bake pizza for delivery.",
        "topping: thing; quantity: small; size: =small,medium,large",
        """Bake {1} pizza with {0}.|Bake {1} {2} pizza with {0}.|I want {1} pizza with {0}.""",
        "Done",
        "status: status; ready_at: time",
    ),
    Skill(
        "bike",
        "rent_bike",
        "Rent a bike at a station.",
        "station: name; hours: small",
        """Rent a bike at the station {0} for {1} hours.|I need a bike at {0} for {1} hours.""",
        "Done",
        "bike: code; price: number",
    ),
    Skill(
        "platform",
        "get_train_platform",
        "Get the platform of a train.",
        "train: code",
        """What is the platform of train {0}?|Which platform does train {0} leave from?""",
        "The platform of train {0}",
        "platform: small; departure: time",
    ),
    Skill(
        "temperature",
        "set_thermostat",
        "Set the temperature of a room.",
        "room: thing; temperature: small",
        """Set the temperature of the room {0} to {1}.|Make the room {0} {1} degrees warm.""",
        "Done",
        "status: status; room: thing",
    ),
    Skill(
        "recipe",
        "find_recipe",
        "Find a recipe with an ingredient.",
        "ingredient: thing; vegetarian: bool",
        """Find a recipe with {0}.|Find me a recipe with {0}, vegetarian {1}.""",
        "The recipe with {0}",
        "title: title; minutes: small",
    ),
    Skill(
        "population",
        "get_population",
        "Get the population of a city.",
        "city: city",
        """What is the population of {0}?|How many people live in {0}?""",
        "The population of {0}",
        "population: int; year: int",
    ),
    Skill(
        "table",
        "reserve_table",
        "Reserve a table in a restaurant.",
        "restaurant: name; guests: small; time: time",
        """Reserve a table at {0} for {1} people at {2}.|I need a table at {0} for {1} at {2}.""",
        "Done",
        "status: status; table: small",
    ),
    Skill(
        "sensor value",
        "read_sensor",
        "Read the value of a sensor.",
        "sensor_id: code",
        """Read the sensor {0}.|What is the value of the sensor {0}?""",
        "The sensor {0}",
        "value: number; unit: =volt",
    ),
)
