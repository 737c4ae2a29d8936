"""The plots of the stories: beats, each a choice of templates over the slots of `slots.py`.

Contract: every plot names hero and trait in its opening and again at its end; an empty template
makes its beat optional.
"""

from training.grammar import Beat, Plot

OPENING: Beat = (
    "Once upon a time there was {a_trait} {kind} named {name}. {He} lived {home}.",
    "Once upon a time, {a_trait} {kind} named {name} lived {home}.",
    "Once upon a time, {home}, there lived {a_trait} {kind} called {name}.",
    "Once upon a time there lived {a_trait} {kind} named {name}, {home}.",
    "Once there was {a_trait} {kind} whose name was {name}. {He} lived {home}.",
    "Long ago, {a_trait} {kind} named {name} lived {home}.",
    "One {weather} {time}, {a_trait} {kind} named {name} woke up {home}.",
    "One day, {a_trait} {kind} called {name} sat {home}.",
    "{name} was {a_trait} {kind} who lived {home}.",
    "This is the story of {name}, {a_trait} {kind} who lived {home}.",
    "There once lived {a_trait} {kind} named {name}. {His} home was {home}.",
    "Far away, {home}, lived {a_trait} {kind} named {name}.",
)
WANT: Beat = (
    "More than anything, {name} wanted {a_adj} {noun}, because {reason}.",
    "Every night {he} dreamed of {a_adj} {noun}.",
    "{name} had only one wish: {a_adj} {noun}.",
    "{He} needed {a_adj} {noun}, because {reason}.",
    "One {later_weather} {later_time}, {name} heard about {a_adj} {noun} and wanted to find it.",
    'One {later_time}, {name} said, "I must find {a_adj} {noun}!"',
)
SET_OFF: Beat = (
    "So {name} packed a bag and set off.",
    "{name} put on {his} boots and started walking.",
    "So {he} left home to look for the {noun}.",
    "Without a word, {name} went out to search for the {noun}.",
    "{name} {deed}, as every {trait} {kind} would, and then began the journey.",
)
OBSTACLE: Beat = (
    "After a while {name} came to {obstacle}. {trouble}.",
    "Soon {he} stood in front of {obstacle}. {trouble}.",
    "But on the way there was {obstacle}. {trouble}.",
    "Before noon {name} met with {obstacle}. {trouble}.",
)
DEED: Beat = (
    "Because {name} was {trait}, {he} {deed}.",
    "{name} was {trait}, so {he} {deed}.",
    "{He} {deed}, for {he} was {trait}.",
    "Being {trait}, {name} {deed}.",
)
MEET: Beat = (
    "There {he} met {a_fkind} named {friend}.",
    "Just then {a_fkind} called {friend} came along.",
    "Nearby sat {a_fkind} whose name was {friend}.",
    "Not far off, {a_fkind} named {friend} was watching {him}.",
    "Luckily, {a_fkind} named {friend} lived close by.",
)
ASK: Beat = (
    '"What are you looking for?" asked {friend}. "For {a_adj} {noun}," said {name}.',
    '"Where are you going?" asked {friend}. "I want to find {a_adj} {noun}," answered {name}.',
    '"Can you help me?" asked {name}. "I am looking for {a_adj} {noun}."',
    '"Good day," said {friend}. "Have you seen {a_adj} {noun}?" asked {name}.',
)
PASS: Beat = (
    "Together {name} and {friend} thought hard. In the end {name} {way}.",
    '"I know what to do," said {friend}. With {his} new friend beside {him}, {name} {way}.',
    '"Do not give up," said {friend}. So {name} {way}.',
    "With the help of {friend}, {name} {way}.",
    "{friend} gave {him} good advice, and {name} {way}.",
)
FOUND: Beat = (
    "And there, {spot}, lay the {adj} {noun}.",
    "At last {name} found the {adj} {noun} {spot}.",
    "{name} looked around, and {spot} {he} saw the {adj} {noun}.",
    "Then {friend} pointed to the {adj} {noun} {spot}.",
)
THANKS: Beat = (
    '"Thank you, {friend}!" said {name}.',
    '"I could not have done it without you, {friend}," said {name}.',
    '"We did it!" cried {friend}.',
    "{name} gave {friend} a big hug.",
    '"You are a true friend, {friend}," said {name}.',
    "",
)
ENDING: Beat = (
    "{name} carried the {noun} home, still as {trait} as ever.",
    "From that day on, the {trait} {kind} {name} and {friend} were best friends.",
    "When {name} came home with the {noun}, everyone cheered for the {trait} {kind}.",
    "And whenever people saw the {noun}, they told the story of {name}, the {trait} {kind}.",
    "{name} went home happy, and {friend} never forgot the {trait} {kind}.",
    "That night the {trait} {kind} {name} fell asleep with a smile, next to the {noun}.",
)
FRIEND_ENDING: Beat = (
    "From that day on, the {trait} {kind} {name} and {friend} were best friends.",
    "{name} went home happy, and {friend} never forgot the {trait} {kind}.",
    "They laughed until the stars came out, {friend} and {name}, the {trait} {kind}.",
    "And {name} stayed as {trait} as ever, with {friend} by {his} side.",
    "Ever since, {friend} has told everyone about {name}, the {trait} {kind}.",
)

LOSE: Beat = (
    "{name} owned {a_adj} {noun} and loved it dearly. But one {later_weather} {later_time} {loss}.",
    "{His} greatest treasure was {a_adj} {noun}. One {later_time}, {loss}.",
    "{name} took {a_adj} {noun} everywhere, until {loss}.",
)
SAD: Beat = (
    '"Oh no, my {noun}!" cried {name}.',
    "{name} searched everywhere, but the {noun} was gone.",
    "{name} felt like crying, for there was no other {noun} like it.",
)
RETURN: Beat = (
    '"Is this your {noun}?" asked {friend}, for it had been {spot}.',
    '"I found {a_adj} {noun} {spot}," said {friend}.',
    "{friend} led {him} to the {adj} {noun}, which lay {spot}.",
)
COOK: Beat = (
    "For {feast}, {name} wanted to make {a_dish}.",
    '"I will make {a_dish} for {feast}," said {name}.',
    "The day of {feast} was near, and {name} had promised {a_dish}.",
)
MISSING: Beat = (
    "But there was not enough {ingredient} in the kitchen.",
    "Everything was ready, only the {ingredient} had run out.",
    '"Without {ingredient} it will taste of nothing," sighed {name}.',
)
LEND: Beat = (
    '"I have plenty of {ingredient}," said {friend}. "Take as much as you need."',
    "{friend} ran home and came back with {ingredient}.",
    '"Why are you sad?" asked {friend}. "I need {ingredient}," said {name}. {friend} had some.',
)
SHARE: Beat = (
    "Soon the {dish} was ready, and they ate it together.",
    "The {dish} smelled so good that all the neighbors came to the door.",
    "At {feast} everyone asked for more {dish}.",
)
LEARN: Beat = (
    "{name} wanted to learn how to {skill}.",
    "Nothing seemed finer to {name} than to {skill}.",
    '"I wish I could {skill}," said {name} one {later_weather} {later_time}.',
)
FAIL: Beat = (
    "But at the first try {fail}.",
    "{name} tried, and {fail}.",
    "It was hard, though, because {fail}.",
)
TEACH: Beat = (
    '"I can teach you how to {skill}," said {friend}.',
    '"Practice with me every {later_time}," said {friend}.',
    "{friend} showed {him} how to {skill}, slowly and without laughing.",
)
SUCCEED: Beat = (
    "On the day of {feast}, {success}.",
    "After many weeks, {success}.",
    "Then one {time}, at last, {success}.",
)
RESCUE: Beat = (
    (
        "One {later_weather} {later_time}, {he} heard a cry for help. "
        "It was {a_fkind} named {friend}, {cry}."
    ),
    '"Help me!" called a voice. {name} found {a_fkind} named {friend}, {cry}.',
    "On a walk, {name} saw {a_fkind} called {friend}, {cry}.",
)
BARRIER: Beat = (
    "But between them was {obstacle}. {trouble}.",
    "{name} wanted to run to {friend}, but first there was {obstacle}. {trouble}.",
)
CROSS: Beat = (
    '"I am coming, {friend}!" called {name}, and {he} {way}.',
    "So {name} {way} and set {friend} free.",
    "{name} {way}, and at last {friend} was safe.",
)
GIFT: Beat = (
    "As a gift, {friend} gave {him} {a_adj} {noun}.",
    '"This {adj} {noun} is for you," said {friend}.',
    "To say thank you, {friend} brought {him} {a_adj} {noun}.",
)

PLOTS: dict[str, Plot] = {
    "quest": (OPENING, WANT, SET_OFF, OBSTACLE, DEED, MEET, ASK, PASS, FOUND, THANKS, ENDING),
    "loss": (OPENING, LOSE, SAD, DEED, MEET, ASK, RETURN, THANKS, ENDING),
    "feast": (OPENING, COOK, MISSING, DEED, MEET, LEND, SHARE, THANKS, FRIEND_ENDING),
    "lesson": (OPENING, LEARN, FAIL, DEED, MEET, TEACH, SUCCEED, THANKS, FRIEND_ENDING),
    "rescue": (OPENING, RESCUE, BARRIER, DEED, CROSS, GIFT, ENDING),
}
