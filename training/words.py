"""Words that stories are made of: people, animals, traits, places, things and troubles.

Contract: plain constants without behaviour; every entry fits every template that uses its slot.
"""

from training.listing import phrases_of, words_of

GIRLS = words_of(
    """Mila Ada Nora Lina Ruby Ivy Tessa Clara Hana Zoe Maya Elsa Greta Rosa Nina Lucy Alma Freya
    Juno Pia Willa Daisy Hazel Iris Sofia Amina Leila Olive Poppy Stella Vera Wren Yara Bella Cora
    Dora Emma Flora Gwen Helen Ines Jenny Kira Lotte Mina Nella Opal Petra Rita Sana Tilda Ursula
    Vivi Wanda Zara Anya Betty Carla Edith Fiona"""
)
BOYS = words_of(
    """Tom Ben Oscar Leo Max Finn Hugo Otto Sam Theo Arlo Boris Carl Dan Emil Felix Gus Henry Ivan
    Jack Karl Liam Milo Noah Omar Paul Remy Simon Toby Victor Walter Yusuf Zeno Adam Bruno Casper
    David Eli Fred George Harold Igor Jonas Kofi Luka Marco Nils Owen Pedro Quinn Rafi Sven Tariq
    Umar Vito Willy Albert Basil Cyrus Dario"""
)
FEMALE_KINDS = words_of("girl queen princess grandmother witch shepherdess")
MALE_KINDS = words_of("boy king prince grandfather fisherman shepherd")
NEUTRAL_KINDS = words_of(
    """fox rabbit bear mouse owl cat dog wolf duck hedgehog squirrel frog badger otter deer
    goat horse donkey sparrow raven turtle snail beaver mole dragon giant robot wizard baker miller
    sailor farmer gardener teacher painter tailor carpenter clockmaker doctor pilot musician
    knight pirate inventor librarian postman elephant lion tiger monkey penguin whale crow hen
    lamb pony cricket beetle bee dwarf troll fairy ghost"""
)
KINDS = (*FEMALE_KINDS, *MALE_KINDS, *NEUTRAL_KINDS)

# Each trait comes with deeds that only this trait explains.
TRAITS: dict[str, tuple[str, ...]] = {
    "brave": ("took a deep breath and did not run away", "walked straight into the dark"),
    "kind": ("thought of the others first", "shared the last piece of bread"),
    "curious": ("looked under every stone", "asked one question after another"),
    "clever": ("sat down and made a plan", "drew a little map in the sand"),
    "patient": ("waited quietly until evening", "counted to one hundred and waited"),
    "honest": ("told the whole truth", "admitted every mistake at once"),
    "gentle": ("spoke in a soft voice", "moved slowly so that nobody was frightened"),
    "stubborn": ("tried again and again", "refused to turn back"),
    "cheerful": ("whistled a merry tune", "laughed at the rain"),
    "quiet": ("listened without making a sound", "crept along on soft feet"),
    "careful": ("checked every step twice", "tied each knot two times"),
    "lazy": ("took a long nap first", "looked for the easiest path"),
    "proud": ("stood up very straight", "did not want to ask for help"),
    "shy": ("blushed and looked at the ground", "hid behind a tree for a moment"),
    "generous": ("gave away half of the food", "offered a warm scarf to a stranger"),
    "hungry": ("stopped to pick some berries", "ate three apples on the way"),
    "lonely": ("talked to the moon", "sang to keep away the silence"),
    "sleepy": ("yawned seven times", "rubbed two tired eyes"),
    "wise": ("remembered an old saying", "thought long before speaking"),
    "grumpy": ("grumbled all morning", "kicked a pebble down the road"),
    "playful": ("turned the work into a game", "jumped over every puddle"),
    "humble": ("bowed politely", "let others go first"),
    "loyal": ("kept the promise", "never forgot an old friend"),
    "tiny": ("slipped through a crack in the wall", "hid inside a teacup"),
    "strong": ("lifted a heavy stone", "carried all the bags alone"),
    "quick": ("ran like the wind", "was back before the kettle boiled"),
    "nervous": ("trembled but kept going", "bit a fingernail and kept going"),
    "polite": ("said please and thank you", "knocked three times before going in"),
    "dreamy": ("watched the clouds for a while", "forgot the time completely"),
    "eager": ("set off before breakfast", "could hardly wait for the sunrise"),
    "thrifty": ("saved every coin", "mended the old boots once more"),
    "funny": ("told a silly joke", "made a face like a fish"),
}

HOMES = phrases_of(
    """in a small house by the sea|at the edge of a dark forest|on top of a windy hill
    in a quiet village|under an old oak tree|in a tall tower|near a wide river
    in a busy harbor town|behind the old mill|on a tiny island|beside a frozen lake
    in a sunny valley|at the end of a long road|in a cottage full of books
    above a little bakery|in the middle of a huge city|next to the railway station
    in a garden full of roses|at the foot of a snowy mountain|on a farm with seven cows
    in a castle made of grey stone|inside a hollow log|in a wagon with yellow wheels
    near the great desert|on a boat with a blue sail|in a lighthouse|under the roof of a school
    in a cave with a round door|beyond the green meadows|in a hut made of straw
    between two rivers|close to a noisy market|in a village where it always rained
    at the corner of Plum Street|over a dusty shop|by a deep well|among tall pine trees
    in a city on the clouds|on the far side of the moon|in a kingdom without a king"""
)

ADJECTIVES = words_of(
    """red blue green yellow golden silver purple white black orange pink shiny old new striped
    bright lovely strange magic heavy wonderful round small plain"""
)
NOUNS = words_of(
    """key kite bell lantern ring button drum flute hat scarf boat basket mirror box book map
    clock crown feather stone shell cup spoon blanket ball wheel ladder rope candle coin apple pear
    cake violin trumpet whistle umbrella coat boot glove ribbon necklace compass telescope bottle
    barrel chair table bucket hammer needle thread pillow carpet flag mask puppet doll kettle
    teapot pan bowl jar letter stamp pencil brush pumpkin carrot cherry lemon walnut acorn egg
    nest flower rose tulip seed leaf star balloon sled wagon bicycle train ship guitar harp piano
    painting statue vase purse chest pearl diamond crystal medal shield sword helmet fan broom
    spade rake net hook anchor sail wand potion cloak bracelet marble toy pocket bench swing
    fiddle cradle tent torch magnet puzzle"""
)

# obstacle -> (what makes it hard, ways past it); every phrase belongs to one obstacle.
OBSTACLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "a deep river": (
        "The water was cold and there was no bridge",
        ("built a raft out of branches", "crossed on a fallen trunk"),
    ),
    "a locked gate": (
        "The lock was rusty and as big as a plate",
        ("oiled the lock with butter", "climbed over the bars"),
    ),
    "a steep cliff": (
        "The rock was smooth and wet",
        ("cut steps into the rock", "climbed up along a thick vine"),
    ),
    "a dark tunnel": (
        "It smelled of damp earth and nobody could see a thing",
        ("lit a small lamp", "followed the wall with one hand"),
    ),
    "a muddy swamp": (
        "Every step made a sucking noise",
        ("laid flat boards on the mud", "hopped from one clump of grass to the next"),
    ),
    "a field of thorns": (
        "The thorns were as long as fingers",
        ("crawled along a rabbit path", "pushed the thorns aside with a stick"),
    ),
    "a snow storm": (
        "The wind howled and the path was gone",
        ("dug a shelter in the snow", "followed the old fence posts"),
    ),
    "a broken bridge": (
        "Half of the planks were missing",
        ("mended the planks with string", "balanced along the railing"),
    ),
    "a sleeping giant": (
        "His huge legs lay right across the road",
        ("tickled his nose until he rolled over", "tiptoed past his ear"),
    ),
    "a high wall": (
        "It had no door and no window",
        ("stacked crates into a stair", "found a loose brick and made a hole"),
    ),
    "a thick fog": (
        "It was like walking inside a bag of wool",
        ("followed the sound of a church tower", "dropped white pebbles to mark the trail"),
    ),
    "a noisy crowd": (
        "Everybody was shouting and nobody moved",
        ("asked each person to make room", "slid between their knees"),
    ),
    "a maze of hedges": (
        "All the corners looked the same",
        ("kept turning left", "unrolled a ball of yarn to find the exit"),
    ),
    "a hungry crocodile": (
        "It showed all of its teeth",
        ("threw it a bun and hurried by", "sang it to sleep"),
    ),
    "an angry goose": (
        "It hissed and flapped its wings",
        ("offered it a handful of corn", "walked around it in a wide circle"),
    ),
    "a flooded street": (
        "The water reached up to the doorsteps",
        ("paddled along in a bathtub", "stepped from crate to crate"),
    ),
    "a desert without shade": (
        "The sand was as hot as an oven",
        ("walked by night under the stars", "rested beside a cactus until dusk"),
    ),
    "a grim guard": (
        "He would not let anyone pass",
        ("solved his riddle", "cheered him up with a song"),
    ),
    "a crooked staircase": (
        "It creaked and swayed at every step",
        ("went up on hands and knees", "held tight to the banister"),
    ),
    "a frozen pond": (
        "The ice cracked at the edges",
        ("lay flat and slid across", "tested the ice with a long pole"),
    ),
}

SPOTS = phrases_of(
    """under a mossy rock|behind a waterfall|in the branches of an apple tree|on a dusty shelf
    at the bottom of a dry well|inside an empty barrel|in the hollow of a tree
    between two old books|beneath a loose floorboard|on a bed of leaves|next to a beehive
    in a puddle of moonlight|below the stairs|on the highest step|in a forgotten drawer
    beside a stone lion|on the windowsill|at the end of the rainbow|in a nest of straw
    under the kitchen table|near a bubbling spring|inside a rusty pot|on the back of a cart
    in the middle of a ring of mushrooms"""
)

REASONS = phrases_of(
    """the old one was broken|nobody in the family had ever seen one|winter was coming soon
    a birthday was near|a dream had shown the way|the great fair was only three days away
    every song in the land spoke of it|a sick cousin wished for it|life had become too dull
    a letter had promised it|the neighbors talked of nothing else|it would make everyone smile
    it was the only thing missing|the harvest feast was about to begin"""
)

WEATHERS = phrases_of(
    """sunny|rainy|windy|foggy|snowy|cold|warm|cloudy|misty|stormy|frosty|golden"""
)
TIMES = words_of("morning evening afternoon day night Sunday Monday")

DISHES: dict[str, tuple[str, ...]] = {
    "honey cake": ("honey", "flour"),
    "mushroom soup": ("mushrooms", "cream"),
    "apple pie": ("apples", "cinnamon"),
    "cheese bread": ("cheese", "yeast"),
    "carrot stew": ("carrots", "parsley"),
    "berry jam": ("berries", "sugar"),
    "nut cookies": ("walnuts", "butter"),
    "fish pie": ("herring", "potatoes"),
    "lemon tart": ("lemons", "eggs"),
    "pumpkin soup": ("pumpkins", "ginger"),
    "rice pudding": ("rice", "milk"),
    "onion dumplings": ("onions", "salt"),
    "plum cake": ("plums", "almonds"),
    "tomato salad": ("tomatoes", "basil"),
}
FEASTS = phrases_of(
    """the harvest feast|the midsummer party|the wedding of the miller|the winter market
    the birthday of the mayor|the lantern parade|the spring picnic|the school fair
    the homecoming of the sailors|the longest night of the year"""
)

# skill -> (what goes wrong, what goes right)
SKILLS: dict[str, tuple[str, str]] = {
    "play the flute": ("only squeaks came out", "the notes floated like birds"),
    "swim": ("water got into both ears", "the lake felt as soft as silk"),
    "ride a bicycle": ("the front wheel ended in a bush", "the wheels hummed along the lane"),
    "bake bread": ("the loaf was as hard as a brick", "the loaf was brown and warm"),
    "juggle": ("the balls rolled under the sofa", "five balls danced in the air"),
    "paint": ("the picture looked like spilled soup", "the colors glowed like a sunset"),
    "dance": ("two left feet got tangled", "the floor seemed to float"),
    "skate": ("the ice was always faster", "the blades drew perfect circles"),
    "sing": ("the windows rattled", "even the nightingale stopped to listen"),
    "read": ("the letters jumped around", "the words opened like doors"),
    "sew": ("the thread broke eleven times", "the seam was straight and neat"),
    "write poems": ("nothing rhymed with silver", "every line sounded like music"),
    "climb trees": ("the lowest branch was too high", "the top branch swayed in the breeze"),
    "tell jokes": ("nobody laughed", "the whole room roared with laughter"),
    "fly a glider": ("it landed in the duck pond", "it sailed over the rooftops"),
    "whistle": ("only air came out", "a clear tone rang across the yard"),
}
CRIES = phrases_of(
    """stuck in a hollow tree|caught in a fishing net|trapped under a heavy cart
    locked inside a cellar|hanging from a thin branch|sinking into the mud
    tangled in a thorn bush|lost in the tall grass|sitting on a block of ice
    trapped behind a fallen rock|alone on a drifting raft|stuck at the top of a chimney"""
)
LOSSES = phrases_of(
    """a gust of wind carried it away|it slipped through a hole in a pocket
    a magpie snatched it from the window|it rolled down the hill|it fell off the cart
    the tide washed it out to sea|it dropped into a drain|a goat ran off with it
    somebody took it by mistake|it sank to the bottom of the pond"""
)
