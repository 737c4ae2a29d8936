"""Facts of the training text, as tables from subject to answer.

Contract: plain data; `families.py` has their statements and questions.
"""

from itertools import pairwise

from training.listing import pairs_of, words_of

CAPITALS = pairs_of(
    """France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon;
    England: London; Scotland: Edinburgh; Wales: Cardiff; Ireland: Dublin; Belgium: Brussels;
    Austria: Vienna; Hungary: Budapest; Poland: Warsaw; Greece: Athens; Turkey: Ankara;
    Russia: Moscow; Ukraine: Kyiv; Norway: Oslo; Sweden: Stockholm; Finland: Helsinki;
    Denmark: Copenhagen; Iceland: Reykjavik; Switzerland: Bern; Croatia: Zagreb; Serbia: Belgrade;
    Romania: Bucharest; Bulgaria: Sofia; Slovakia: Bratislava; Slovenia: Ljubljana; Latvia: Riga;
    Estonia: Tallinn; Lithuania: Vilnius; Malta: Valletta; Cyprus: Nicosia; Albania: Tirana;
    Egypt: Cairo; Morocco: Rabat; Tunisia: Tunis; Algeria: Algiers; Kenya: Nairobi;
    Ghana: Accra; Senegal: Dakar; Nigeria: Abuja; Ethiopia: Addis Ababa; Uganda: Kampala;
    Zambia: Lusaka; Angola: Luanda; Rwanda: Kigali; Namibia: Windhoek; Madagascar: Antananarivo;
    Japan: Tokyo; China: Beijing; India: New Delhi; Nepal: Kathmandu; Thailand: Bangkok;
    Vietnam: Hanoi; Indonesia: Jakarta; Mongolia: Ulaanbaatar; Iran: Tehran; Iraq: Baghdad;
    Pakistan: Islamabad; Bangladesh: Dhaka; Jordan: Amman; Lebanon: Beirut; Qatar: Doha;
    Canada: Ottawa; Mexico: Mexico City; Cuba: Havana; Jamaica: Kingston; Brazil: Brasilia;
    Argentina: Buenos Aires; Chile: Santiago; Peru: Lima; Colombia: Bogota; Uruguay: Montevideo;
    Ecuador: Quito; Venezuela: Caracas; Paraguay: Asuncion; Australia: Canberra;
    New Zealand: Wellington; South Korea: Seoul; the Netherlands: Amsterdam;
    the United States: Washington; the Philippines: Manila; the Czech Republic: Prague"""
)
CONTINENTS = {
    country: continent
    for continent, countries in {
        "Europe": """France Germany Italy Spain Portugal England Ireland Belgium Austria Hungary
            Poland Greece Norway Sweden Finland Denmark Iceland Switzerland Romania""",
        "Africa": "Egypt Morocco Tunisia Algeria Kenya Ghana Senegal Nigeria Ethiopia Uganda",
        "Asia": "Japan China India Nepal Thailand Vietnam Mongolia Iran Iraq Pakistan Jordan",
        "North America": "Canada Mexico Cuba",
        "South America": "Brazil Argentina Chile Peru Colombia Uruguay Ecuador Venezuela",
    }.items()
    for country in words_of(countries)
}
SOUNDS = pairs_of(
    """cow: moo; sheep: baa; dog: woof; cat: meow; duck: quack; pig: oink; horse: neigh;
    rooster: cock-a-doodle-doo; bee: buzz; snake: hiss; lion: roar; owl: hoot; frog: croak;
    mouse: squeak; crow: caw; donkey: hee-haw; hen: cluck; wolf: howl; pigeon: coo; bird: tweet"""
)
YOUNG = pairs_of(
    """cow: calf; sheep: lamb; dog: puppy; cat: kitten; duck: duckling; pig: piglet; horse: foal;
    hen: chick; goose: gosling; goat: kid; bear: cub; deer: fawn; frog: tadpole; kangaroo: joey;
    swan: cygnet; eagle: eaglet; hare: leveret; butterfly: caterpillar; owl: owlet; eel: elver"""
)
COLORS = pairs_of(
    """ripe banana: yellow; ripe tomato: red; clear sky: blue; fresh snow: white; coal: black;
    grass: green; carrot: orange; ripe plum: purple; flamingo: pink; polar bear: white;
    raven: black; lemon: yellow; frog: green; chocolate: brown; ripe strawberry: red;
    elephant: gray;
    pumpkin: orange; milk: white; fire engine: red; emerald: green; ruby: red; sapphire: blue"""
)
OPPOSITES = pairs_of(
    """hot: cold; big: small; fast: slow; day: night; up: down; left: right; old: young;
    happy: sad; light: dark; open: closed; high: low; wet: dry; full: empty; early: late;
    hard: soft; loud: quiet; rich: poor; strong: weak; thick: thin; long: short; near: far;
    clean: dirty; easy: difficult; first: last; true: false; good: bad; sweet: sour; war: peace;
    begin: end; give: take; push: pull; buy: sell; remember: forget; win: lose; laugh: cry;
    arrive: leave; always: never; inside: outside; above: below; before: after; brave: afraid;
    polite: rude; wide: narrow; deep: shallow; heavy: lightweight; love: hate; yes: no;
    friend: enemy; question: answer; smooth: rough; sharp: blunt; ancient: modern"""
)
LEGS = pairs_of(
    """dog: four; cat: four; cow: four; horse: four; hen: two; duck: two; person: two; ant: six;
    bee: six; beetle: six; butterfly: six; spider: eight; scorpion: eight; crab: ten; fish: no;
    snake: no; worm: no; penguin: two; frog: four; mouse: four; ostrich: two; lobster: ten"""
)
HOMES = pairs_of(
    """bee: hive; bird: nest; spider: web; horse: stable; dog: kennel; rabbit: burrow; lion: den;
    pig: sty; beaver: lodge; king: castle; monk: monastery; ant: anthill; hen: coop; bat: cave;
    soldier: barracks; sailor: ship; snail: shell; nun: convent"""
)
JOBS = pairs_of(
    """baker: bakes bread; teacher: teaches children; pilot: flies airplanes;
    doctor: heals the sick; tailor: sews clothes; farmer: grows food; carpenter: builds with wood;
    blacksmith: shapes iron;
    fisherman: catches fish; painter: paints pictures; gardener: cares for plants;
    librarian: looks after books; miller: grinds grain; potter: makes pots from clay;
    plumber: repairs pipes; firefighter: puts out fires; barber: cuts hair; cobbler: mends shoes;
    astronomer: studies the stars; poet: writes poems; judge: decides in court;
    shepherd: guards sheep; chef: cooks meals; musician: plays music; actor: performs on stage;
    optician: fits glasses; beekeeper: keeps bees; translator: turns one language into another"""
)
TOOLS = pairs_of(
    """cut wood: saw; hit a nail: hammer; sew a button: needle; sweep the floor: broom;
    eat soup: spoon; write a letter: pen; dig a hole: spade; open a lock: key; cut paper: scissors;
    look at the stars: telescope; measure time: clock; paint a wall: brush; tell the temperature:
    thermometer; catch a fish: hook; boil water: kettle; find north: compass; dry your hands: towel;
    tighten a bolt: wrench; see tiny things: microscope; stay dry in the rain: umbrella"""
)
PLURALS = pairs_of(
    """mouse: mice; goose: geese; foot: feet; tooth: teeth; child: children; man: men; woman: women;
    ox: oxen; leaf: leaves; wolf: wolves; knife: knives; sheep: sheep; person: people; city: cities;
    box: boxes; berry: berries; life: lives; hero: heroes; potato: potatoes; cactus: cacti"""
)
PLANETS = dict(
    zip(
        words_of("first second third fourth fifth sixth seventh eighth"),
        words_of("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune"),
        strict=True,
    )
)
DAYS = words_of("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words_of(
    "January February March April May June July August September October November December"
)
NEXT_DAY = dict(zip(DAYS, DAYS[1:] + DAYS[:1], strict=True))
NEXT_MONTH = dict(zip(MONTHS, MONTHS[1:] + MONTHS[:1], strict=True))
DAY_BEFORE = {after: before for before, after in NEXT_DAY.items()}
LETTERS = words_of("A B C D E F G H I J K L M N O P Q R S T U V W X Y Z")
NEXT_LETTER = dict(pairwise(LETTERS))
COUNTS = pairs_of(
    """days in a week: seven; months in a year: twelve; hours in a day: twenty-four;
    minutes in an hour: sixty; seconds in a minute: sixty; letters in the English alphabet:
    twenty-six; sides of a triangle: three; sides of a square: four; wheels of a bicycle: two;
    wheels of a tricycle: three; strings of a violin: four; arms of an octopus: eight;
    seasons in a year: four; eggs in a dozen: twelve; colors in a rainbow: seven;
    fingers on one hand: five; players in a chess game: two; planets of the Sun: eight;
    years in a century: one hundred; continents on Earth: seven"""
)
