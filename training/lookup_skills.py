"""Usual tools that answer something: the weather, the time, a distance, a sum.

Contract: plain data; the last two requests of a skill are for evaluation alone.
"""

from training.skills import Skill

WEATHER_DESCRIPTIONS = """Get the weather in a city.|Get the current weather in a given location.
Get the current weather|Returns the weather for a place.|Current weather of a city
Get current temperature for a given location.|Get the weather|Weather of a city."""

LOOKUP_SKILLS = (
    Skill(
        "weather",
        "get_weather|get_current_weather",
        WEATHER_DESCRIPTIONS,
        "city|location: city",
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
        "weather",
        "get_weather|get_current_weather",
        WEATHER_DESCRIPTIONS,
        "city|location: city; unit: =celsius,fahrenheit",
        """What is the weather in {0}?|What's the weather like in {0}?|Is it warm in {0}?
        Tell me the weather in {0}.|Get the weather for {0}.|How hot is it in {0} in {1}?
        What is the weather in {0} in {1}?|What's the weather like in {0}, in {1}?
        Give me the temperature in {0} in {1}.|Weather for {0} in {1}, please.
        How warm is it in {0}, in {1}?|Weather in {0} in {1}?|What's the weather in {0} today?
        Tell me the temperature in {0} in {1}.|What's the temperature like in {0}?""",
        "The weather in {0}",
        "temperature: small; condition: condition; wind: small",
    ),
    Skill(
        "time",
        "get_time|get_current_time",
        """Get the current time in a city.|Returns the time of a place.
        Get the current time|Tells what time it is in a given location.""",
        "city|location: city",
        """What time is it in {0}?|What is the time in {0}?|Tell me the time in {0}.
        Current time in {0}?|What's the time in {0}?|Time in {0}, please.|Get the time in {0}.
        Do you know what time it is in {0}?|Is it late in {0}?|What does the clock say in {0}?
        What time is it in {0} right now?|I want to call {0}. What time is it there?
        What time is it now in {0}?|How late is it in {0}?""",
        "The time in {0}",
        "time: time; day: day",
    ),
    Skill(
        "sum",
        "add",
        """Add two numbers.|Adds a and b.|Returns the sum of two numbers.
        Calculate the sum of two numbers.|Add two integers together.""",
        "a: number; b: number",
        """What is {0} + {1}?|What is {0} plus {1}?|How much is {0} + {1}?|Add {0} and {1}.
        {0} + {1}|Calculate {0} + {1}.|What is the sum of {0} and {1}?|Compute {0} plus {1}.
        Use the tool to add {0} and {1}.|Sum up {0} and {1}.|How much is {0} plus {1}?
        {0} plus {1}?|Add the numbers {0} and {1}, please.|Please calculate {0} + {1}.
        Please add {0} and {1}.|Give me the sum of {0} and {1}.""",
        "The sum of {0} and {1}",
        "sum: sum",
    ),
    Skill(
        "product",
        "multiply",
        "Multiply two numbers.|Multiplies a and b.|Returns the product of two numbers.",
        "a: number; b: number",
        """What is {0} times {1}?|Multiply {0} by {1}.|Multiply {0} and {1}.|{0} * {1}
        How much is {0} times {1}?|What is {0} * {1}?|What is the product of {0} and {1}?
        Please multiply {0} by {1}.|Compute {0} * {1}.|{0} times {1}?
        Calculate {0} times {1}.|How much is {0} * {1}?""",
        "The product of {0} and {1}",
        "product: product",
    ),
    Skill(
        "distance",
        "get_distance",
        "Get the distance between two places.|Returns the distance in kilometers.|How far it is.",
        "from: city; to: city",
        """How far is it from {0} to {1}?|What is the distance between {0} and {1}?
        Distance from {0} to {1}?|Get the distance from {0} to {1}.|How far is {0} from {1}?
        How many kilometers is it from {0} to {1}?|What is the distance from {0} to {1}?
        How long is the way from {0} to {1}?|Is it far from {0} to {1}?
        Tell me the distance between {0} and {1}.|Tell me how far it is from {0} to {1}.""",
        "The distance from {0} to {1}",
        "distance: distance; hours: small",
    ),
    Skill(
        "search",
        "search|web_search",
        """Search the web.|Searches the internet for a query.|Web search
        Find information on the web.|Look up information.""",
        "query: subject",
        """Search for {0}.|Search the web for {0}.|Look up {0}.|Find information about {0}.
        Please search for {0}.|Find something about {0} on the web.|Do a web search for {0}.
        Look for {0}, please.|I want to know more about {0}. Search the web.|Find {0}.
        Can you search for {0}?|Search the internet for {0}.""",
        "What I found about {0}",
        "count: number; day: day",
    ),
    Skill(
        "user",
        "get_user|find_user",
        "Get a user by name.|Find a user.|Returns what is known about a user.|Look up a person.",
        "name: name",
        """Find the user {0}.|Who is the user {0}?|Look up the user {0}.|Get the user {0}.
        Get the data of the user {0}.|Find {0} in the list of users.|User {0}, please.
        I need the data of {0}.|Tell me about the user {0}.
        Show me the user {0}.|What do we know about the user {0}?""",
        "The user {0}",
        "age: number; city: city",
    ),
    Skill(
        "money",
        "convert_currency",
        "Convert money from one currency to another.|Converts an amount between currencies.",
        "amount: number; from: currency; to: currency",
        """Convert {0} {1} to {2}.|How much is {0} {1} in {2}?|What are {0} {1} in {2}?
        Change {0} {1} into {2}.|Exchange {0} {1} for {2}.|{0} {1} in {2}?|{0} {1} to {2}, please.
        How many {2} are {0} {1}?|I have {0} {1}. How much is that in {2}?
        Please convert {0} {1} into {2}.|Can you convert {0} {1} to {2}?""",
        "The value of {0} {1} in {2}",
        "amount: number",
    ),
    Skill(
        "translation",
        "translate",
        "Translate a word into another language.|Translates text.|Translate a text.",
        "text: noun; language: language",
        """Translate {0} into {1}.|Translate {0} to {1}.|What is {0} in {1}?|Say {0} in {1}.
        Translate the word {0} into {1}.|What does {0} mean in {1}?|{0} in {1}, please.
        What is the {1} word for {0}?|I need the word {0} in {1}.
        How do you say {0} in {1}?|Please translate {0} into {1}.""",
        "The word {0} in {1}",
        "translation: translation",
    ),
)
