"""Common English words for generated questions about their spelling; lower case and all different."""

_TEXT = """
ability absence academy accident account address adventure afternoon airplane airport album alphabet
ambulance animal answer apartment appetite apple appointment apricot arrival arrow article artist attitude
audience autumn avenue avocado baby background balance balcony balloon banana bandage barrel basement basket
bathroom battery beach beauty bedroom beginning behavior believe benefit bicycle birthday biscuit blanket
blossom blueberry bottle bottom bracelet breakfast breeze brother brownie bubble bucket budget buffalo
building bullet burden butter butterfly button cabbage cabinet calendar camera campaign candle candy canyon
capital captain caravan career carnival carpenter carpet carriage carrot castle cathedral cattle ceiling
celebration cellar century cereal ceremony certain challenge champion channel chapter character cheese cherry
chicken children chimney chocolate church cinema circle citizen classroom climate closet clothes coconut coffee
collar collection college color comfort committee community companion company computer concert condition
confidence connection container contest contract control cookie copper corner costume cottage cotton council
counter country courage cousin cradle creature cricket crystal cucumber culture cupboard curtain cushion
customer daughter december decision degree delivery dentist department desert dessert detail diamond
dictionary difference dinner direction discovery discussion distance district doctor document dolphin donkey
dragon drawer dream driver eagle earring earthquake eclipse economy education effort eggplant election
electricity elephant elevator emergency employee energy engine engineer entrance envelope equipment error
evening event evidence example exercise experience experiment explorer factory failure family farmer fashion
father feather february festival fever fiction finger fireplace flavor flight flower football forest fortune
fountain freedom friend frontier furniture future galaxy gallery garage garden garlic gasoline general
geography giraffe glasses government grammar grandmother grapefruit grasshopper grocery guitar habit hallway
hamburger hammer handle harbor harvest hedgehog height helicopter helmet hesitate highway history holiday honey
horizon horse hospital hotel hundred hunger husband iceberg idea illness imagination impression improvement
income industry information ingredient insect instrument insurance interest interview invention invitation island
jacket january jealous jelly jewelry journal journey judgment jungle justice kangaroo kettle keyboard kingdom
kitchen kitten knowledge laboratory ladder landscape language lantern laughter lawyer leader leather lecture
lemonade lesson letter lettuce level library license lightning limit lipstick literature lobster location
lottery luggage lunch machine magazine magnet manager mango marble market marriage mattress meadow meaning
measure mechanic medicine melody member memory message metal meteor middle midnight mineral minute mirror
mission mississippi mistake moment money monkey monster month monument morning mosquito mother motion motor
mountain mouse movement muffin museum mushroom music mustard mystery napkin nation nature necessary necklace
needle neighbor nephew network newspaper noodle notebook nothing november number oatmeal object occasion ocean
october office onion opera operation opinion opposite orange orchestra organ origin ostrich outside oxygen
package painter palace pancake paper parade parrot partner passenger passport pattern payment peanut pebble
pelican pencil penguin pepper performance permission person petal photograph piano picnic picture pigeon
pillow pineapple pizza planet plastic platform pleasure pocket poetry policy pollen popcorn population position
possession potato practice preparation present president pressure principle printer prisoner problem process
professor program progress promise proposal protection pudding pumpkin puppet puppy purpose puzzle quality
quantity quarter question rabbit raccoon radio railroad rainbow raspberry reaction reason receipt recipe record
refrigerator region relation remember repair reply report republic rescue response restaurant result ribbon
riddle river rocket rubber runner saddle sailor salad sandwich sapphire satellite saturday sausage scarecrow
scenery schedule school science scissors season secret secretary selection sentence september service session
shadow shelter sheriff shoulder shower silence silver sister skeleton slipper snowflake soccer society soldier
solution spaghetti sparrow spider spinach spoon squirrel stadium station statue steel stocking stomach storage
strawberry street student subject success sugar summer sunflower supper surface surprise sweater swimming
symbol system tablet talent teacher technology telephone television temperature temple tennis theater theory
thermometer thought thread thunder ticket tiger tobacco tomato tomorrow tongue tornado tortoise tourist tower
tractor traffic trailer treasure triangle trouble trumpet tulip tunnel turkey turtle typewriter umbrella uncle
universe university vacation valley vanilla vegetable vehicle victory village violin visitor vitamin volcano
volume waffle wagon waiter wallet walnut water weather wedding weekend welcome whisper willow window winter
wisdom witness wonder worker writer yellow yesterday yogurt zebra zucchini
"""
WORDS = tuple(_TEXT.split())
