"""Plain names of things: categories, synonyms, plurals and articles.

An entry of the table reads `name=synonym,synonym`; some file names of the clip-art are Italian or French.
"""

from functools import cache
from typing import NamedTuple

_TABLE = {
    "animal": """
        monkey=monkey face,chimpanzee; gorilla; orangutan; wolf=simple stylized wolf; fox=red fox,kit fox
        raccoon
        dog=dog face,guide dog,service dog,poodle,beagle,bulldog,puppy,dalmatian,pug,labrador,black lab
        cat=cat face,black cat,kitten,gatto,gattina,gattina cat,tabby; lion=leone; tiger=tiger face,tigre
        leopard; horse=horse face,cavallo,pony; moose; donkey; unicorn; zebra; deer=fawn; bison
        cow=cow face,mucca,vacca,cattle; ox=water buffalo,bull,toro; pig=pig face,hog; boar=wild boar
        sheep=ewe,ram,pecora,pecorella,lamb; goat; camel=two-hump camel,cammello; llama; giraffe
        elephant=elefante,elefantone; mammoth; rhinoceros=rhino; hippopotamus=hippo; mouse=mouse face,topo
        rat; hamster; rabbit=rabbit face,bunny,coniglio,hare; chipmunk; squirrel; beaver; hedgehog; bat
        bear=orso,brown bear; polar bear; koala; panda=giant panda; sloth; otter; skunk; kangaroo=canguro
        badger; armadillo; echidna; turkey=tacchino; chicken=hen; rooster=gallo,cock; penguin=pinguino
        chick=baby chick,front-facing baby chick,hatching chick; dove=colombo; eagle=aquila
        duck=anatra,rubber duck; swan=cigno; owl=gufo; dodo; flamingo; peacock; parrot; goose
        crow=black bird; bird=uccello,cormorant; seagull=gull,gabbiano; ostrich=struzzo; puffin; frog=rana
        crocodile=alligator; snake; dragon=dragon face; turtle=tortoise
        lizard=lucertola,lucertolona,lucertolone,ramarro,az-lizard; snail=lumaca
        dinosaur=sauropod,t-rex,dino,dinosauro,dinosaurs; whale=spouting whale,bluewhale,humpback; dolphin
        orca=killer whale; seal; shark; octopus; jellyfish; crab; lobster=crawfish,crayfish; shrimp; squid
        oyster; fish=tropical fish,pesce,pescetto,brown fish,clown loach,goldfish,altum angelfish
        pufferfish=blowfish; seahorse; butterfly=farfalla; caterpillar; ant=formica,formichina,formicona
        bee=honeybee,abeille; beetle; ladybug=lady beetle,ladybird,coccinella,coccinelle,coccinellona
        cricket=grasshopper,grass hopper,cavalletta; cockroach; spider=ragno; scorpion
        mosquito=moschito,zanzara; fly; worm; dragonfly=libellula,libellule""",
    "plant": """
        bouquet=bouquet of flowers
        flower=hibiscus,blossom,cherry blossom,fiore,daisy,daffodil,sakura,magnolia; rose=rosa
        sunflower=sun flower; tulip; hyacinth; lotus; seedling; potted plant=flower-pot,flowerandpot
        tree=deciduous tree,evergreen tree,albero,cartoon tree; palm tree=palmtree; cactus=cacuts; shamrock
        clover=four leaf clover; leaf=maple leaf,fallen leaf,fall coloured leaf
        mushroom=champignon,brown mushroom,toadstool; Christmas tree; fern; acorn; pine cone""",
    "food": """
        grapes=grape; melon; watermelon=pasteque; tangerine; lemon; lime; banana=bananas; pineapple; mango
        plum=prune; apple=red apple,green apple; pear=green pear,pera; peach=pesca; cherries=cherry
        strawberry; blueberries; orange; kiwi=kiwi fruit; tomato=pomodori; olive; coconut; avocado; eggplant
        potato; carrot; corn=ear of corn,corn cob
        chili pepper=hot pepper,cayenne pepper,habanero pepper,peperoncino; bell pepper=paprika; cucumber
        lettuce=leafy green; broccoli; garlic=aglio; onion; peanuts=peanut; beans; chestnut; pumpkin=zucca
        bread=loaf of bread; croissant=cornetto; baguette=baguette bread; pretzel; bagel; pancakes=pancake
        waffle; cheese=cheese wedge; steak=cut of meat; bacon; meat=meat on bone; drumstick=poultry leg
        hamburger=burger,cheeseburger; french fries=fries; pizza; hot dog; sandwich; taco; burrito
        egg=fried egg; salad=green salad; popcorn; butter; salt; bento box; rice=cooked rice
        spaghetti=pasta; soup=bowl of steaming soup,steaming bowl; sushi; dumpling; fortune cookie; cookie
        cake=birthday cake,shortcake,torta; ice cream=soft ice cream,ice cream cone,shaved ice,gelato
        doughnut=donut; cupcake=muffin; pie; chocolate=chocolate bar; candy; lollipop; custard=flan
        honey=honey pot; coffee=hot beverage; milk=glass of milk; beer=beer mug; wine
        cocktail=cocktail glass,tropical drink,martini glass""",
    "vehicle": """
        train=locomotive,high-speed train,bullet train; tram=tramway,trolley car
        bus=oncoming bus,trolleybus,minibus; ambulance=ambulans,ambulanza; fire truck=fire engine
        police car=oncoming police car; taxi=oncoming taxi,cab
        car=automobile,oncoming automobile,sport utility vehicle,sportcar,redcar,old car,hummer
        pickup truck=pickup; tractor=trattore
        truck=delivery truck,articulated lorry,big truck,old truck,small truck,lorry
        racing car=formula one car,race car; motorcycle=motorbike; scooter=motor scooter
        wheelchair=manual wheelchair,motorized wheelchair; rickshaw=auto rickshaw; bicycle=bike,bicicletta
        kick scooter; sailboat=sailing boat; canoe; speedboat=motor boat; ferry; boat; ship=passenger ship
        airplane=small airplane,plane,aircraft,airliner; helicopter; rocket; flying saucer=ufo; tank
        satellite; sled=sledge; skateboard""",
    "clothing": """
        glasses; sunglasses; goggles; lab coat; safety vest; tie=necktie; shirt=t-shirt,tshirt; jeans; scarf
        gloves=glove; coat; socks=sock; dress; kimono; sari; swimsuit=one-piece swimsuit; briefs; shorts
        bikini; purse=handbag,clutch bag; backpack; sandal=thong sandal,woman’s sandal
        shoe=man’s shoe,running shoe,flat shoe,tennis shoe,sneaker; boot=hiking boot,woman’s boot
        high-heeled shoe; ballet shoes; crown; hat=woman’s hat; top hat=tophat; cap=billed cap,baseball cap
        helmet=military helmet,rescue worker’s helmet,football helmet; sombrero; roller skate; ice skate
        boxing glove; baseball glove""",
    "instrument": """
        saxophone; trumpet=trumpet b; trombone=tenor trombone; accordion; guitar=electric guitar,bass guitar
        banjo; violin; drum=war drum,long drum,djambe; drums; maracas; flute; harp; cello; piano; xylophone
        french horn""",
    "tool": """
        hammer=construction hammer; axe; pickaxe=pick; saw=carpentry saw,bowsaw,sega; wrench; screwdriver
        clamp; ladder; shovel=simple shovel,roundpointshovel; drill; bucket; broom; toolbox; magnet=calamita
        hook; scissors; paintbrush=paint brush; trowel; plunger; razor; syringe=siringa
        needle=sewing needle; sword; dagger; shield; bow and arrow; boomerang; fishing rod=fishing pole
        paint roller; rake=leafrake; key=old key,chiave; compass=bussola; telescope; microscope=microscopio
        magnifying glass=magnifying glass tilted left,magnifying glass tilted right; binoculars=binocolo
        scale=balance scale; flashlight; fire extinguisher; test tube=provetta; stethoscope=stetoscopio
        crutch; bomb; gear; pliers""",
    "furniture": """
        door; mirror; window; bed; sofa=couch and lamp,couch,soft blue couch; chair=sedia; toilet; shower
        bathtub; lamp=desk lamp; table=wooden table,small square table,tavolo; shopping cart; file cabinet
        trash can=wastebasket,cestino; stool; bench""",
    "building": """
        house=home,my house,small house,big house,casa,house with garden; hut; office building; hospital
        school; factory; castle=Japanese castle; church; mosque; tent=camping; circus tent; fountain
        lighthouse; Ferris wheel=ferris wheel; carousel=carousel horse; bridge; windmill; igloo; tower""",
    "toy": """
        teddy bear=simple teddy bear,stylized teddy bear,teddybear; balloon=ballon,baloon; kite; yo-yo
        puzzle piece; dice=game die; soccer ball=soccer ballon,football ball; baseball; basketball
        volleyball=volley-ball,volley ball; rugby ball=rugby football; football=american football
        beach ball=beachball; bowling ball; robot; skis; trophy; present=wrapped gift,gift
        medal=sports medal,military medal,1st place medal; baseball bat; snowman=snowman without snow
        tennis racket; nesting dolls; crystal ball; magic wand; jack-o-lantern; surfboard
        rubik's cube=rubik""",
    "electronics": """
        microphone=studio microphone; headphones=headphone; radio; phone=telephone,red telephone
        mobile phone=cellular phone,cell phone; battery; plug=electric plug; laptop
        computer=desktop computer,computer; printer=stampante; keyboard=computer keyboard; computer mouse
        joystick; floppy disk=floppy; compact disc=optical disk,dvd,cd; video camera=camcorder; movie camera
        television=tv; camera=camera with flash,digital camera; calculator=simple calculator
        light bulb=lightbulb,bulb; video game; loudspeaker; satellite dish=satellite antenna; vacuum cleaner
        monitor=lcd monitor""",
    "household": """
        bottle; baby bottle=biberon; teapot=teiera; teacup=teacup without handle; cup=cup with straw
        wine glass; glass=tumbler glass; mug; spoon; fork; knife=kitchen knife; jar; amphora; chopsticks
        suitcase=luggage,valigie; hourglass=hourglass done,hourglass not done; watch; alarm clock
        stopwatch=cronometro; clock=mantelpiece clock; thermometer; umbrella=closed umbrella; candle=candela
        bell; book=closed book,green book,blue book,orange book; books; notebook; scroll; newspaper; coin
        treasure chest; credit card; envelope; box=package,cardboard box,open box,closed box
        mailbox=closed mailbox with raised flag,closed mailbox with lowered flag,postbox; pencil
        fountain pen; pen; crayon; briefcase; calendar; clipboard; pushpin=round pushpin,thumbtack
        paperclip; stapler=stappler; ruler=straight ruler; lock=locked,padlock,lucchetto
        bandage=adhesive bandage; pill; basket; soap; toothbrush; sponge; lipstick
        frying pan=shallow pan of food,pan; pot=pot of food; barrel=wooden barrel,oil drum; wheel; anchor
        yarn; feather; shell=spiral shell; spider web; bone; lantern=red paper lantern
        globe=globe showing americas,globe showing europe-africa,globe showing asia-australia; safety pin
        thread; megaphone; postage stamp; traffic light=vertical traffic light,horizontal traffic light
        stop sign=stop-sign; money bag; dollar bill=dollar banknote; artist palette
        picture frame=framed picture""",
    "nature": """
        mountain=snow-capped mountain; volcano; rainbow; cloud; sun; moon=crescent moon,full moon; fire
        snowflake; rock; planet=ringed planet; tornado; desert island; cherry tree""",
}


def _set(text: str, *more: str) -> frozenset[str]:
    """Split a line into words; more: names of several words."""
    return frozenset((*text.split(), *more))


_PLURAL = _set(
    "grapes cherries blueberries peanuts beans pancakes glasses sunglasses goggles jeans gloves socks"
    " briefs shorts scissors maracas drums skis headphones chopsticks books binoculars pliers",
    "french fries", "ballet shoes", "nesting dolls",
)  # fmt: skip
_MASS = _set(
    "corn lettuce broccoli garlic bread cheese bacon meat popcorn butter salt rice spaghetti soup sushi"
    " candy custard honey coffee milk beer wine soap yarn fire thread money chocolate",
    "ice cream",
)
_IRREGULAR = {
    "mouse": "mice", "computer mouse": "computer mice", "goose": "geese", "wolf": "wolves", "leaf": "leaves",
    "knife": "knives", "ox": "oxen", "cactus": "cacti", "scarf": "scarves", "tomato": "tomatoes",
    "potato": "potatoes", "mosquito": "mosquitoes", "mango": "mangoes", "bow and arrow": "bows and arrows",
}  # fmt: skip
_UNCHANGED = _set("sheep deer fish bison moose shrimp squid dice pufferfish jellyfish")
_KINDS_OF = """
    bird=dove, eagle, duck, swan, owl, dodo, flamingo, peacock, parrot, goose, crow, seagull, ostrich,
    turkey, chicken, rooster, chick, penguin; feather=dove, eagle, duck, swan, owl, flamingo, peacock,
    parrot, goose, crow, seagull, rooster, chicken, bird; flower=rose, sunflower, tulip, hyacinth, lotus,
    bouquet, potted plant; tree=Christmas tree, palm tree; leaf=tree, rose, tulip, sunflower, clover,
    shamrock, seedling, flower, potted plant, palm tree; clover=shamrock; car=taxi, police car, racing car,
    pickup truck; truck=pickup truck, fire truck; wheel=car, bus, truck, bicycle, motorcycle, scooter, taxi,
    tractor, train, wheelchair, ambulance, rickshaw, tram, skateboard, police car, racing car, pickup truck,
    fire truck, kick scooter, shopping cart, roller skate; boat=sailboat, canoe, speedboat, ferry, ship;
    ship=ferry, sailboat; train=tram; scooter=kick scooter, motorcycle; shoe=boot, sandal, high-heeled shoe,
    ballet shoes, roller skate, ice skate; hat=cap, sombrero, helmet, top hat; glasses=sunglasses, goggles;
    book=books, notebook, scroll; phone=mobile phone; computer=laptop, monitor, keyboard; keyboard=laptop,
    computer, piano; monitor=computer, laptop, television; cup=mug, teacup, coffee, glass; mug=coffee, beer,
    teacup; glass=cocktail, milk, beer, wine, wine glass; house=hut, castle, tent, igloo, office building;
    tent=circus tent; camera=video camera, movie camera; movie camera=video camera; clock=watch, stopwatch,
    alarm clock; watch=stopwatch; monkey=gorilla, orangutan; cow=ox, bison; pig=boar; mouse=rat, hamster;
    chicken=rooster, chick; bear=panda, koala, polar bear, teddy bear; fish=pufferfish, shark, seahorse;
    whale=orca; elephant=mammoth; lizard=dinosaur, crocodile, dragon; cake=cupcake; candle=cake, lantern;
    tangerine=orange; candy=lollipop; drum=drums; violin=cello; pen=pencil, crayon, fountain pen;
    box=present; pumpkin=jack-o-lantern; meat=steak, drumstick, bacon; bread=baguette,
    sandwich; dress=kimono, sari; shirt=tie, coat; bell pepper=chili pepper; squirrel=chipmunk;
    caterpillar=worm; sword=dagger; axe=pickaxe; bee=fly; seal=otter; mountain=volcano; battery=flashlight;
    lamp=light bulb, lantern, candle; computer mouse=computer; frying pan=egg, pot; egg=frying pan; stop
    sign=traffic light; mailbox=envelope; football=rugby ball; baseball=baseball glove, baseball bat;
    dinosaur=dragon; window=house, hut, church, school, factory, hospital, castle, office building;
    door=house, hut, church, school; sailboat=surfboard; rocket=satellite; planet=moon, globe; cat=tiger,
    lion; dog=wolf, fox; turtle=snail; sun=horse; donkey=horse; goat=sheep; loudspeaker=megaphone"""
"""A name, and names of things of which it could also be said: no honest negatives for each other."""


class Names(NamedTuple):
    """Hold the table in the two directions that are asked."""

    category: dict[str, str]
    """Name → category."""
    plain: dict[str, str]
    """Lower-case label, name or synonym → name."""


@cache
def names() -> Names:
    """Read the table."""
    category: dict[str, str] = {}
    plain: dict[str, str] = {}
    for group, text in _TABLE.items():
        for entry in text.replace("\n", ";").split(";"):
            name, _, synonyms = entry.strip().partition("=")
            if name:
                category[name] = group
                plain.update({word.lower(): name for word in (name, *filter(None, synonyms.split(",")))})
    return Names(category, plain)


def plain_name(label: str) -> str | None:
    """Give the common name for a label, or None for what is not in the table."""
    return names().plain.get(label.strip().lower())


def category_of(name: str) -> str | None:
    """Give the category of a common name."""
    return names().category.get(name)


@cache
def synonyms_of(name: str) -> tuple[str, ...]:
    """List the lower-case words that mean the same, the name itself first."""
    own = name.lower()
    return (own, *sorted(word for word, meant in names().plain.items() if meant == name and word != own))


@cache
def _kin() -> frozenset[frozenset[str]]:
    """Read the pairs of names that can be said of the same thing."""
    pairs = set()
    for entry in " ".join(_KINDS_OF.split()).split(";"):
        general, _, special = entry.strip().partition("=")
        pairs |= {frozenset((general, name.strip())) for name in special.split(",")}
    return frozenset(pairs)


def are_kin(one: str, other: str) -> bool:
    """Tell whether both names could be said of one thing, as bird and owl."""
    return one == other or frozenset((one, other)) in _kin()


def is_plural(name: str) -> bool:
    """Tell whether a name is a plural ("grapes are ...")."""
    return name in _PLURAL


def is_countable(name: str) -> bool:
    """Tell whether copies of it can be counted with the plain plural."""
    return name not in _PLURAL and name not in _MASS


def with_article(name: str) -> str:
    """Put "a" or "an" before a name that takes one."""
    if not is_countable(name):
        return name
    sounds_open = name[0].lower() in "aeiou" and not name.startswith(("unicorn", "ukulele", "one-", "eu"))
    return f"an {name}" if sounds_open or name.startswith("hourglass") else f"a {name}"


def plural(name: str) -> str:
    """Form the plural of a name."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    if name in _UNCHANGED or not is_countable(name):
        return name
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2] not in "aeiou" else f"{name}s"
