"""Wordings of everything that users and the model say in chat, beyond facts, sums and stories.

Contract: plain constants; names that start with HELD_OUT are for evaluation only.
"""

from training.listing import words_of

OPENERS = (
    "", "", "", "", "Hello! ", "Hi, ", "Please help me. ", "Quick question: ", "Excuse me. ",
    "I wonder: ", "One more thing: ", "Okay. ", "Dear storyteller, ", "So, ", "Now tell me: ",
)  # fmt: skip
CLOSERS = (
    "", "", "", "", " Please.", " Thanks!", " Thank you.", " I forgot it.",
    " Just the answer, please.", " My teacher asked me.", " I am curious.",
)  # fmt: skip

SYSTEM_ROLES = (
    "You are a helpful assistant.", "You are a friendly storyteller.", "You are storyteller.",
    "You are a patient teacher.", "You are a small language model.", "You are an assistant.",
    "You help children learn.", "You answer questions.", "You are a polite helper.",
)  # fmt: skip
SYSTEM_RULES = (
    "", "", "", "Answer briefly.", "Be kind.", "Use simple words.", "Keep answers short.",
    "Say so when you do not know something.", "Answer in English.", "Be honest.",
    "Never invent facts.", "Stay on topic.", "Be polite and clear.",
)  # fmt: skip
HELD_OUT_SYSTEMS = (
    "You are a friendly and honest assistant. Answer simply.",
    "You are a kind teacher. Be brief.",
    "You help people and answer questions in short sentences.",
)
JSON_SYSTEMS = (
    "Always reply with JSON.", "Answer only with a JSON object.", "You speak only JSON.",
    "You are an API. Every reply is one JSON object.",
)  # fmt: skip

STORY_REQUESTS = (
    "Tell me a story about {topic}.",
    "Write a story about {topic}.",
    "Can you tell me a story about {topic}?",
    "I want to hear a story about {topic}.",
    "Write a short story about {topic}.",
    "Tell a bedtime story about {topic}.",
    "Make up a story about {topic}.",
    "Please write a little story with {topic} in it.",
    "Could you invent a story about {topic}?",
    "Story about {topic}, please.",
    "My daughter would love a tale about {topic}.",
    "Tell me something about {topic}. It should be a story.",
    "Do you know a story about {topic}?",
    "A story about {topic}!",
    "Give me a fairy tale about {topic}.",
)
HELD_OUT_STORY_REQUESTS = (
    "I would like a short story about {topic}.",
    "Would you tell us a story about {topic}?",
    "Please make up a little tale about {topic}.",
)
OPEN_STORY_REQUESTS = (
    "Tell me a story.", "Write a story.", "I am bored. Tell me something nice.",
    "Can you tell me a bedtime story?", "Any story, please.", "Do you know a good story?",
)  # fmt: skip

GREETINGS = (
    "Hello", "Hi", "Hey", "Good morning", "Good evening", "Good afternoon", "Hello there",
    "Hi there", "Greetings", "Good day", "Hey there", "Howdy",
)  # fmt: skip
HELD_OUT_GREETINGS = ("Hello, hello", "Good morning to you", "Hey, good day")
GREETING_TAILS = (
    "", "!", ".", ", how are you?", "! How are you?", ", storyteller!", "! Nice to meet you.",
    ". How are you today?", "! Are you there?", ", what's up?",
)  # fmt: skip
GREETING_REPLIES = (
    "Hello! How can I help you?",
    "Hi! Would you like to hear a story?",
    "Hello! I can tell a story, name a capital or add small numbers.",
    "Good day! What would you like to know?",
)
THANKS = (
    "Thank you!", "Thanks!", "Thanks a lot.", "That was nice.", "Great, thank you.", "Well done!",
    "Wonderful, thanks.", "I liked that.", "Thank you very much!", "Perfect.", "Cool, thanks.",
)  # fmt: skip
HELD_OUT_THANKS = ("Many thanks, that was great.", "Thank you, well done!")
THANKS_REPLIES = (
    "You are welcome!",
    "I am glad that you liked it.",
    "You are welcome. Ask me more!",
)
GOODBYES = (
    "Goodbye!", "Bye!", "See you later.", "Good night!", "I have to go now.", "Bye bye!",
    "See you tomorrow!", "That is all for today.", "Farewell!", "So long!",
)  # fmt: skip
HELD_OUT_GOODBYES = ("Bye, see you!", "Goodbye and good night!")
GOODBYE_REPLIES = ("Goodbye! Come back soon.", "Bye! Have a nice day.", "See you soon!")
IDENTITY_QUESTIONS = (
    "Who are you?", "What are you?", "What is your name?", "Are you a human?", "Are you an AI?",
    "Tell me about yourself.", "Are you ChatGPT?", "Which model are you?", "Who made you?",
    "How big are you?", "Introduce yourself.", "Are you a robot?", "How were you trained?",
    "Do you have a name?", "Can I trust you?", "Are you always right?", "What's your name?",
)  # fmt: skip
HELD_OUT_IDENTITY_QUESTIONS = ("Please say who you are.", "What kind of model are you?")
IDENTITY_REPLIES = (
    (
        "I am storyteller, a very small language model. I was trained from scratch on made-up "
        "text. I know only a little and I can be wrong."
    ),
    (
        "I am storyteller, a tiny language model. I learned from made-up text, so I know only a "
        "few things, and I make mistakes."
    ),
)
ABILITY_QUESTIONS = (
    "What can you do?", "How can you help me?", "What do you know?", "Help!", "Can you help me?",
    "What should I ask you?", "What are you good at?", "What can I ask?",
)  # fmt: skip
ABILITY_REPLY = (
    "I can tell short stories, answer simple questions such as capitals or opposites, add small "
    "numbers, and reply in JSON. I do not know much else."
)

UNKNOWN_SUBJECTS = (
    "the stock market", "my grandmother", "the football match", "quantum physics", "the new law",
    "the weather tomorrow", "the price of gold", "your favorite movie", "the election",
    "the latest phone", "my neighbor's car", "Greek philosophy", "the last season", "tax rules",
    "the biggest company", "the strongest wrestler", "the fastest computer", "opera", "chemistry",
    "the train to the coast", "my lost wallet", "the deepest lake", "a cheap hotel", "surgery",
)  # fmt: skip
UNKNOWN_QUESTIONS = (
    "What do you think about {x}?", "Can you explain {x}?", "Tell me the latest news on {x}.",
    "What happened with {x} yesterday?", "How much does {x} cost?", "Who is responsible for {x}?",
    "When did {x} begin?", "Why is {x} so important?", "Write code for {x}.",
    "Give me a detailed report on {x}.", "How does {x} work?", "What will happen to {x}?",
    "Is {x} better than last year?", "Where can I read more on {x}?", "Summarize {x}.",
    "What is the history of {x}?", "Who invented {x}?", "Translate {x} into Latin.",
)  # fmt: skip
HELD_OUT_UNKNOWN_QUESTIONS = ("What are the details of {x}?", "Who can explain {x} to me?")
UNKNOWN_REPLIES = (
    "I do not know that. I am only a very small model.",
    "I do not know that. I can tell you a story instead.",
    "I am sorry, I do not know that.",
)
INVENTED_SYLLABLES = words_of(
    "zo bra kel vun tar mi lo dre fa gri no sha pel ru qua ti xan dol ber wi"
)
FOLLOW_UPS = ("And {x}?", "And what about {x}?", "What about {x}?", "And for {x}?", "Now {x}.")
FOLLOW_UP_FAMILIES = ("capital", "opposite", "young", "sound", "plural", "color", "continent")

JSON_REQUESTS = (
    "Give me a JSON object with {keys} for {subject}.",
    "Write {subject} as JSON with {keys}.",
    "Reply with JSON only. Subject: {subject}. Keys: {keys}.",
    "Return a JSON object with the keys {keys} that describes {subject}.",
    "I need JSON with {keys} for {subject}.",
    "Describe {subject} as a JSON object. Use the keys {keys}.",
    "JSON please: {subject}, with {keys}.",
    "Make a JSON record of {subject} with {keys}.",
    "{Subject} as a JSON object with {keys}.",
    "Can you give me {subject} as JSON? Use {keys}.",
)
HELD_OUT_JSON_REQUESTS = (
    "Please return JSON with the keys {keys} for {subject}.",
    "Write a JSON object for {subject} with {keys}.",
)
