"""Countries and their capitals: the members and observers of the United Nations, and a few more."""

from __future__ import annotations

_TABLE = """
Afghanistan:Kabul Albania:Tirana Algeria:Algiers Andorra:Andorra_la_Vella Angola:Luanda
Antigua_and_Barbuda:Saint_John's Argentina:Buenos_Aires Armenia:Yerevan Australia:Canberra Austria:Vienna
Azerbaijan:Baku Bahamas:Nassau Bahrain:Manama Bangladesh:Dhaka Barbados:Bridgetown Belarus:Minsk
Belgium:Brussels Belize:Belmopan Benin:Porto-Novo Bhutan:Thimphu Bolivia:Sucre
Bosnia_and_Herzegovina:Sarajevo Botswana:Gaborone Brazil:Brasília Brunei:Bandar_Seri_Begawan
Bulgaria:Sofia Burkina_Faso:Ouagadougou Burundi:Gitega Cambodia:Phnom_Penh Cameroon:Yaoundé Canada:Ottawa
Cape_Verde:Praia Central_African_Republic:Bangui Chad:N'Djamena Chile:Santiago China:Beijing
Colombia:Bogotá Comoros:Moroni Congo:Brazzaville Democratic_Republic_of_the_Congo:Kinshasa
Costa_Rica:San_José Croatia:Zagreb Cuba:Havana Cyprus:Nicosia Czech_Republic:Prague Denmark:Copenhagen
Djibouti:Djibouti Dominica:Roseau Dominican_Republic:Santo_Domingo East_Timor:Dili Ecuador:Quito
Egypt:Cairo El_Salvador:San_Salvador Equatorial_Guinea:Malabo Eritrea:Asmara Estonia:Tallinn
Eswatini:Mbabane Ethiopia:Addis_Ababa Fiji:Suva Finland:Helsinki France:Paris Gabon:Libreville
Gambia:Banjul Georgia:Tbilisi Germany:Berlin Ghana:Accra Greece:Athens Grenada:Saint_George's
Guatemala:Guatemala_City Guinea:Conakry Guinea-Bissau:Bissau Guyana:Georgetown Haiti:Port-au-Prince
Honduras:Tegucigalpa Hungary:Budapest Iceland:Reykjavik India:New_Delhi Indonesia:Jakarta Iran:Tehran
Iraq:Baghdad Ireland:Dublin Israel:Jerusalem Italy:Rome Ivory_Coast:Yamoussoukro Jamaica:Kingston
Japan:Tokyo Jordan:Amman Kazakhstan:Astana Kenya:Nairobi Kiribati:Tarawa Kosovo:Pristina
Kuwait:Kuwait_City Kyrgyzstan:Bishkek Laos:Vientiane Latvia:Riga Lebanon:Beirut Lesotho:Maseru
Liberia:Monrovia Libya:Tripoli Liechtenstein:Vaduz Lithuania:Vilnius Luxembourg:Luxembourg
Madagascar:Antananarivo Malawi:Lilongwe Malaysia:Kuala_Lumpur Maldives:Malé Mali:Bamako Malta:Valletta
Marshall_Islands:Majuro Mauritania:Nouakchott Mauritius:Port_Louis Mexico:Mexico_City Micronesia:Palikir
Moldova:Chișinău Monaco:Monaco Mongolia:Ulaanbaatar Montenegro:Podgorica Morocco:Rabat Mozambique:Maputo
Myanmar:Naypyidaw Namibia:Windhoek Nauru:Yaren Nepal:Kathmandu Netherlands:Amsterdam
New_Zealand:Wellington Nicaragua:Managua Niger:Niamey Nigeria:Abuja North_Korea:Pyongyang
North_Macedonia:Skopje Norway:Oslo Oman:Muscat Pakistan:Islamabad Palau:Ngerulmud Palestine:Ramallah
Panama:Panama_City Papua_New_Guinea:Port_Moresby Paraguay:Asunción Peru:Lima Philippines:Manila
Poland:Warsaw Portugal:Lisbon Qatar:Doha Romania:Bucharest Russia:Moscow Rwanda:Kigali
Saint_Kitts_and_Nevis:Basseterre Saint_Lucia:Castries Saint_Vincent_and_the_Grenadines:Kingstown
Samoa:Apia San_Marino:San_Marino São_Tomé_and_Príncipe:São_Tomé Saudi_Arabia:Riyadh Senegal:Dakar
Serbia:Belgrade Seychelles:Victoria Sierra_Leone:Freetown Singapore:Singapore Slovakia:Bratislava
Slovenia:Ljubljana Solomon_Islands:Honiara Somalia:Mogadishu South_Africa:Pretoria South_Korea:Seoul
South_Sudan:Juba Spain:Madrid Sri_Lanka:Colombo Sudan:Khartoum Suriname:Paramaribo Sweden:Stockholm
Switzerland:Bern Syria:Damascus Taiwan:Taipei Tajikistan:Dushanbe Tanzania:Dodoma Thailand:Bangkok
Togo:Lomé Tonga:Nukualofa Trinidad_and_Tobago:Port_of_Spain Tunisia:Tunis Turkey:Ankara
Turkmenistan:Ashgabat Tuvalu:Funafuti Uganda:Kampala Ukraine:Kyiv United_Arab_Emirates:Abu_Dhabi
United_Kingdom:London United_States:Washington Uruguay:Montevideo Uzbekistan:Tashkent Vanuatu:Port_Vila
Vatican_City:Vatican_City Venezuela:Caracas Vietnam:Hanoi Yemen:Sanaa Zambia:Lusaka Zimbabwe:Harare
"""

CAPITALS: dict[str, str] = {
    entry.replace("_", " ").split(":")[0]: entry.replace("_", " ").split(":")[1] for entry in _TABLE.split()
}

OTHER_NAMES = {
    "USA": "United States",
    "the US": "United States",
    "the USA": "United States",
    "America": "United States",
    "UK": "United Kingdom",
    "the UK": "United Kingdom",
    "England": "United Kingdom",
    "Great Britain": "United Kingdom",
    "Britain": "United Kingdom",
    "Czechia": "Czech Republic",
    "Holland": "Netherlands",
    "Burma": "Myanmar",
    "UAE": "United Arab Emirates",
    "Timor-Leste": "East Timor",
    "Cabo Verde": "Cape Verde",
    "Côte d'Ivoire": "Ivory Coast",
    "Swaziland": "Eswatini",
    "DR Congo": "Democratic Republic of the Congo",
    "Macedonia": "North Macedonia",
    "Türkiye": "Turkey",
    "Sao Tome and Principe": "São Tomé and Príncipe",
}
"""What people also call a country → its name in `CAPITALS`."""

WITH_ARTICLE = frozenset(
    {
        "Bahamas",
        "Central African Republic",
        "Comoros",
        "Congo",
        "Czech Republic",
        "Democratic Republic of the Congo",
        "Dominican Republic",
        "Gambia",
        "Ivory Coast",
        "Maldives",
        "Marshall Islands",
        "Netherlands",
        "Philippines",
        "Seychelles",
        "Solomon Islands",
        "United Arab Emirates",
        "United Kingdom",
        "United States",
    }
)
"""Countries that take "the"."""
