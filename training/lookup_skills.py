"""Usual tools that answer something: the weather, the time, a price, a sum.

Contract: plain data; the last request of a skill is for evaluation alone.
"""

from training.skills import Skill

LOOKUP_SKILLS = (
    Skill(
        "weather",
        "get_weather|get_current_weather|weather|fetch_weather|getWeather|weather_report",
        """Get the weather in a city.|Get the current weather in a given location.
        Get the current weather|Returns the weather for a place.|Current weather of a city""",
        "city|location|place: city; unit|units|format: =celsius,fahrenheit",
        """What is the weather in {0}?|What's the weather like in {0}?|How is the weather in {0}?
        Weather in {0}?|What is the weather in {0} today?|Tell me the weather in {0}.
        What's the weather in {0} right now?|Is it cold in {0}?|Do I need an umbrella in {0}?
        Will it rain in {0}?|Get the weather for {0}.|Check the weather in {0}, please.
        What is the temperature in {0}?|How warm is it in {0}?|How hot is it in {0} in {1}?
        What is the weather in {0} in {1}?|What's the weather like in {0}, in {1}?
        Give me the temperature in {0} in {1}.|Weather for {0} in {1}, please.
        I am going to {0}. How is the weather?|What is the weather like in {0} today?
        Can you check what the weather is like in {0}?""",
        "The weather in {0}",
        "temperature: small; condition: condition; wind: small; humidity: small; rain: bool",
    ),
    Skill(
        "weather forecast",
        "get_forecast|weather_forecast|forecast|get_weather_forecast",
        """Get the weather forecast for a city.|Forecast for the next days.
        Returns the forecast of a place for a number of days.""",
        "city|location: city; days|num_days: small",
        """What is the forecast for {0}?|Give me the forecast for {0}.|Forecast for {0}, please.
        What is the weather forecast for {0} for the next {1} days?|{1} day forecast for {0}
        Show me the forecast of the next {1} days in {0}.|Forecast for {0} for {1} days.
        What does the forecast say for {0}?""",
        "The forecast for {0}",
        "condition: condition; high: small; low: small",
    ),
    Skill(
        "sum",
        "add|add_numbers|sum|addition|calculate_sum",
        """Add two numbers.|Adds a and b.|Returns the sum of two numbers.
        Calculate the sum of two numbers.|Add two integers together.""",
        "a|x|first|number1: int; b|y|second|number2: int",
        """What is {0} + {1}?|What is {0} plus {1}?|How much is {0} + {1}?|Add {0} and {1}.
        {0} + {1}|Calculate {0} + {1}.|What is the sum of {0} and {1}?|Compute {0} plus {1}.
        Can you add {0} and {1}?|Use the tool to add {0} and {1}.|Sum up {0} and {1}.
        How much is {0} plus {1}?|Please add {0} to {1}.|{0} plus {1}?
        Add the numbers {0} and {1}, please.""",
        "The sum of {0} and {1}",
        "sum: sum",
    ),
    Skill(
        "product",
        "multiply|multiply_numbers|product|mul",
        "Multiply two numbers.|Multiplies a and b.|Returns the product of two numbers.",
        "a|x|first: int; b|y|second: int",
        """What is {0} times {1}?|Multiply {0} by {1}.|Multiply {0} and {1}.|{0} * {1}
        How much is {0} times {1}?|What is {0} * {1}?|What is the product of {0} and {1}?
        Calculate {0} times {1}.""",
        "The product of {0} and {1}",
        "product: product",
    ),
    Skill(
        "difference",
        "subtract|subtract_numbers|minus",
        "Subtract two numbers.|Subtracts b from a.|Returns the difference of two numbers.",
        "a|x: int; b|y: int",
        """What is {0} minus {1}?|{0} - {1}|How much is {0} - {1}?|What is {0} - {1}?
        Take {0} minus {1}.|Calculate {0} minus {1}.""",
        "The difference of {0} and {1}",
        "difference: difference",
    ),
    Skill(
        "time",
        "get_time|get_current_time|current_time|time_in|clock",
        """Get the current time in a city.|Returns the time of a place.
        Get the current time|What time it is in a given timezone.""",
        "city|location|timezone|tz|place: city",
        """What time is it in {0}?|What is the time in {0}?|Tell me the time in {0}.
        Current time in {0}?|What time is it now in {0}?|What's the time in {0}?
        How late is it in {0}?|Do you know what time it is in {0}?""",
        "The time in {0}",
        "time: time; date: date; day: day",
    ),
    Skill(
        "time",
        "get_time|get_current_time|current_time|now",
        """Get the current time in a timezone.|Returns the time of a timezone.
        Current date and time for a timezone.""",
        "timezone|tz|zone: timezone",
        """What time is it in {0}?|What is the time in the timezone {0}?|Time in {0}?
        Tell me the current time for {0}.|Current time in {0}, please.|What's the time in {0}?
        What time is it in the zone {0}?""",
        "The time in {0}",
        "time: time; date: date",
    ),
    Skill(
        "web news",
        "search|web_search|search_web|google|internet_search|lookup",
        """Search the web.|Searches the internet for a query.|Web search
        Find information on the web.|Look up information.""",
        "query|q|text|search_query: subject; limit|max_results|num_results: small",
        """Search for {0}.|Search the web for {0}.|Look up {0}.|Find information about {0}.
        Please search for {0}.|Can you search for {0}?|Find something about {0} on the web.
        Search the internet for {0}.|Look for {0}, please.|Search for {0} and show {1} results.
        Find {1} results about {0}.|I want to know more about {0}. Search the web.
        Do a web search for {0}.""",
        "What I found about {0}",
        "result: message; title: title; count: small",
    ),
    Skill(
        "price stock",
        "get_stock_price|stock_price|get_price|quote|get_quote",
        """Get the price of a stock.|Returns the current stock price of a symbol.
        Get the latest stock price for a ticker.""",
        "symbol|ticker|stock: symbol",
        """What is the stock price of {0}?|What is the price of {0}?|How much is {0} stock?
        Stock price of {0}?|Get the stock price for {0}.|What is {0} trading at?
        What does {0} stock cost?|How is {0} doing today?|Tell me the share price of {0}.
        Give me the current stock price of {0}.""",
        "The stock price of {0}",
        "price: number; currency: currency; change: number",
    ),
    Skill(
        "money",
        "convert_currency|exchange|currency_converter|convert",
        "Convert money from one currency to another.|Converts an amount between currencies.",
        "amount|value: int; from|source|from_currency: currency; to|target|to_currency: currency",
        """Convert {0} {1} to {2}.|How much is {0} {1} in {2}?|What are {0} {1} in {2}?
        Change {0} {1} into {2}.|Exchange {0} {1} for {2}.|Please convert {0} {1} into {2}.""",
        "The value of {0} {1} in {2}",
        "amount: number; rate: number",
    ),
    Skill(
        "translation",
        "translate|translate_text|translation",
        "Translate text into another language.|Translates a text.",
        "text|sentence: message; language|target|target_language|to: language",
        """Translate "{0}" into {1}.|Translate "{0}" to {1}.|What is "{0}" in {1}?
        How do you say "{0}" in {1}?|Say "{0}" in {1}.|Put "{0}" into {1}, please.""",
        "The text in {1}",
        "translation: thing",
    ),
    Skill(
        "flight",
        "book_flight|search_flights|find_flights|flights",
        "Find flights between two cities.|Book a flight.|Search for flights.",
        "from|origin|departure|source: city; to|destination|arrival: city; date|day|when: date",
        """Find a flight from {0} to {1} on {2}.|Book a flight from {0} to {1}.
        I want to fly from {0} to {1} on {2}.|Flights from {0} to {1}?|Fly me from {0} to {1}.
        Show me flights from {0} to {1} on {2}.""",
        "The flight from {0} to {1}",
        "flight: code; price: int; departure: time",
    ),
    Skill(
        "distance",
        "get_distance|distance|calculate_distance|route",
        "Get the distance between two places.|Returns the distance in kilometers.",
        "from|origin|start|a: city; to|destination|end|b: city",
        """How far is it from {0} to {1}?|What is the distance between {0} and {1}?
        Distance from {0} to {1}?|How far is {1} from {0}?|Tell me how far {0} is from {1}.""",
        "The distance between {0} and {1}",
        "distance: int; unit: =km; hours: small",
    ),
    Skill(
        "news",
        "get_news|news|latest_news|headlines",
        "Get the latest news on a topic.|Returns headlines.|News about a topic.",
        "topic|subject|query|keyword: subject",
        """What is the news about {0}?|Get the latest news on {0}.|News about {0}, please.
        Show me headlines about {0}.|Any news on {0}?|What's new about {0}?""",
        "The news about {0}",
        "headline: message; source: thing",
    ),
    Skill(
        "user-get",
        "get_user|find_user|get_user_info|lookup_user|get_contact",
        "Get a user by name.|Find a user.|Returns what is known about a user.",
        "name|user|username|user_name: name",
        """Find the user {0}.|Who is the user {0}?|Look up the user {0}.|Show me the user {0}.
        Get the data of the user {0}.|What do we know about the user {0}?""",
        "The user {0}",
        "age: small; city: city; email: email",
    ),
    Skill(
        "status order",
        "get_order_status|track_order|order_status|check_order",
        "Get the status of an order.|Track an order by its number.|Where an order is.",
        "order_id|id|order|number: code",
        """Where is my order {0}?|What is the status of order {0}?|Track order {0}.
        Has order {0} been sent?|Check my order {0}.|I am waiting for order {0}. Where is it?""",
        "Order {0}",
        "status: status; date: date; city: city",
    ),
    Skill(
        "money",
        "get_exchange_rate|exchange_rate|rate|fx_rate",
        "Get the exchange rate of two currencies.|Exchange rate between currencies.",
        "base|from|source: currency; target|to|quote: currency",
        """What is the exchange rate from {0} to {1}?|{0} to {1} rate?
        How many {1} do I get for one {0}?|Exchange rate of {0} and {1}?
        Tell me the exchange rate between {0} and {1}.""",
        "The exchange rate from {0} to {1}",
        "rate: number; date: date",
    ),
    Skill(
        "dice",
        "roll_dice|roll|dice|random_number",
        "Roll dice.|Rolls a number of dice.|Roll dice with a number of sides.",
        "count|num_dice|dice|n: small; sides|faces: small",
        """Roll {0} dice.|Roll {0} dice with {1} sides.|Throw {0} dice.|Please roll {0} dice.
        Roll {0} dice that have {1} sides.""",
        "The result of {0} dice",
        "total: small; highest: small",
    ),
    Skill(
        "sum product difference",
        "calculate|calculator|evaluate|math",
        "Evaluate an expression.|A calculator.|Calculates a mathematical expression.",
        "expression|expr|input: expression",
        """What is {0}?|Calculate {0}.|Compute {0}.|Evaluate {0}.|How much is {0}?|{0}
        Please calculate {0} for me.""",
        "The value of {0}",
        "result: int",
    ),
)
