"""Common tools that answer: the weather, the time.

Contract: plain data; the last two requests of a skill are for evaluation alone.
"""

from training.skills import Skill

LOOKUP_SKILLS = (
    Skill(
        "weather",
        "get_weather",
        """Get the weather in a city.|Get the current weather in a given location.
        Get the current weather|Returns the weather for a place.|Current weather of a city
        Get current temperature for a given location.|Get the weather|Weather of a city.""",
        "city: city",
        """What is the weather in {0}?|What's the weather like in {0}?|Weather in {0}?
        What is the weather in {0} today?|Tell me the weather in {0}.|Is it cold in {0}?
        What's the weather in {0} right now?|Do I need an umbrella in {0}?
        Will it rain in {0}?|Get the weather for {0}.|Check the weather in {0}, please.
        What is the temperature in {0}?|How warm is it in {0}?|What's the weather in {0}?
        I am going to {0}. How is the weather?|Is it sunny in {0}?|How cold is it in {0} now?
        Can you check what the weather is like in {0}?|Please tell me the weather in {0}.
        How is the weather in {0}?|What is the weather like in {0} today?""",
        "The weather in {0}",
        "temperature: small; condition: condition; wind: small; humidity: number",
    ),
    Skill(
        "time",
        "get_time",
        """Get the current time in a city.|Returns the time of a place.
        Get the current time|Tells what time it is in a given location.""",
        "city: city",
        """What time is it in {0}?|What is the time in {0}?|Tell me the time in {0}.
        Current time in {0}?|What's the time in {0}?|Time in {0}, please.|Get the time in {0}.
        Do you know what time it is in {0}?|Is it late in {0}?|What does the clock say in {0}?
        What time is it in {0} right now?|I want to call {0}. What time is it there?
        What time is it now in {0}?|How late is it in {0}?""",
        "The time in {0}",
        "time: time; day: day",
    ),
)
