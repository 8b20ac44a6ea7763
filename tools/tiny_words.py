"""General English class names, so that the tiny tokenizer spells most of them in a few tokens."""

_WORDS = """
airplane airport alligator ambulance anchor ant antelope apartment apple apron aquarium arm armchair
aircraft artichoke asparagus automobile avocado axe baby backpack badger bag bagel bakery ball balloon
banana bank barn barrel baseball basket basketball bat bath bathroom beach beacon bead beagle bean bear
beaver bed bedroom bee beef beer beetle bell bench berry bicycle bike binoculars bird biscuit bison
blackbird blanket blender blossom boat bonnet book bookcase bookshop boot bottle bow bowl box boy bracelet
brain bread breakfast brick bridge broccoli broom brush bubble bucket buffalo bug building bull bus butter
butterfly button cabbage cabin cabinet cable cactus cake calculator calf camel camera camp can canal candle
candy cannon canoe canyon cap car caravan cardigan carpet carriage carrot cart castle cat caterpillar
cathedral cattle cauliflower cave cello chain chair chalk chameleon cheese cheetah cherry chest chicken
child chimney chimpanzee chin chip chocolate church cinema city clam clarinet cliff clock cloud clown coast
coat cobra cockroach cocktail coconut coffee coin collar collie comb compass computer cone cookie coral corn
couch cow coyote crab cradle crane crayfish cream cricket crocodile crop cross crow crowd crown cruise
cucumber cup cupboard curtain cushion dam dancer dandelion deer desert desk dessert dinosaur dish doctor dog
doll dolphin donkey door dove dragon dragonfly drawer dress drill drum duck dumpling eagle ear earring eel
egg elephant elevator elk engine envelope eye face factory falcon fan farm feather fence fern ferret ferry
field fig finch finger fire fireplace fish flag flamingo flood floor flower flute fly food foot football
forest fork fountain fox frame freight frog fruit fungus furniture garage garden garlic gate gazelle gecko
ghost giraffe girl glacier glass globe glove goat goldfish golf goose gorilla grape grass grasshopper guitar
gull gun hair hammer hamster hand harbor hare harp hat hawk hay head hedgehog helicopter helmet hen heron
highway hill hippopotamus hockey honey hood hook horn horse hospital hotel hound house human hummingbird
hyena iceberg iguana industrial insect iron island jacket jaguar jar jay jeans jeep jellyfish jersey jet
jewel juice jungle kangaroo kettle key keyboard kimono king kitchen kite kiwi knife koala ladder lady
ladybug lake lamb lamp lantern laptop lawn leaf leather lemon leopard letter lettuce library light
lighthouse lily lime lion lipstick lizard llama lobster lock lodge log lotus lynx macaw machine magazine
magnet magpie mailbox man mango mantis map maple marble market mask meadow meat medal melon microphone
microscope microwave milk mirror missile mitten mole money monitor monkey moon moose mosque mosquito moth
motorcycle mountain mouse mouth muffin mug museum mushroom mussel nail neck necklace needle nest net newt
night noodle nose notebook nurse nut oak oatmeal ocean octopus office oil olive onion orange orangutan
orchard orchid organ ostrich otter oven owl ox oyster pail painting pajamas palace palm pan pancake panda
panther paper parachute park parking parrot party pasta pasture path peach peacock pear peas pelican pen
pencil penguin people pepper person petrol phone piano pickup pie pier pig pigeon pillow pine pineapple pipe
pitcher pizza plain plane planet plant plate playground plow plum pocket pole pomegranate pond pony poodle
popcorn poppy porcupine portrait possum pot potato prawn printer prison projector puffin pug pumpkin puppy
purse pyramid quail quilt rabbit raccoon racket radio radish raft railway rain rainbow ram raspberry rat
raven ray refrigerator reindeer remote reservoir residential restaurant retriever rhinoceros rice rifle ring
river road robin robot rock rocket rodent roller roof room rooster rose ruler rug runway sail salad
salamander salmon salt sand sandal sandwich sauce saucer sausage saxophone scale scarf school schooner
scissors scooter scorpion screen screw sculpture sea seahorse seal seashell shark shed sheep shelf shell
shepherd shield ship shirt shoe shop shore shovel shower shrew shrimp sign sink skateboard skirt skunk sky
skyscraper sled sloth snail snake snow soap soccer sock sofa soup space spaghetti spaniel sparrow spatula
spider spinach sponge spoon squid squirrel stadium stair stage star starfish station statue steak stick
stingray stone stool stork storm stove strawberry stream street submarine sugar suit sun sunflower
sunglasses surf sushi swan sweater sweet swimming swing sword syringe table tank tape taxi tea teapot teddy
telephone telescope television temple tennis tent terrier theater thimble tiger tile tire toad toast toaster
tobacco toilet tomato tongue tool tooth toothbrush tornado tortoise towel tower toy track tractor traffic
trailer train tram tray tree trilobite trolley trombone trout truck trumpet tub tulip tunnel turkey turtle
umbrella unicorn urn valley van vase vault vegetable vehicle vest viaduct village vine violin volcano
vulture waffle wagon wall wallet walnut walrus wardrobe warthog washer wasp watch water waterfall watermelon
weasel web wedding whale wheat wheel whistle willow window wine wing wolf woman wombat wood woodpecker wool
worm wrench yacht yak zebra zoo black white grey gray brown golden silver dark bright large small big little
young old long short round square wild annual permanent herbaceous forested residential industrial satellite
aerial photo photograph picture image drawing sketch painting rendering blurry cropped close low high
resolution contrast texture pattern type kind handwritten number digit banded blotchy braided bubbly bumpy
cracked flecked freckled frilly fibrous knitted lacy layered lined marbled matted meshed paisley perforated
pitted pleated polka dotted porous scaly smeared spiral sprinkled stained stratified studded swirly veined
waffled woven wrinkled zigzagged zero one two three four five six seven eight nine ten
"""


def class_words() -> list[str]:
    """Unique words, sorted."""
    return sorted(set(_WORDS.split()))
