"""Common tools that act: timers, switches, players.

Contract: plain data; the last two requests of a skill are for evaluation alone.
"""

from training.skills import Skill

ACTION_SKILLS = (
    Skill(
        "timer",
        "set_timer",
        "Set a timer.|Starts a timer for some minutes.|Set a timer in minutes.",
        "minutes: small",
        """Set a timer for {0} minutes.|Start a timer of {0} minutes.|Timer for {0} minutes!
        Start a timer for {0} minutes.|Set the timer to {0} minutes.|{0} minutes, please.
        Please set a timer of {0} minutes.|I need a timer for {0} minutes.|Start {0} minutes.
        Please set a {0} minute timer.|Can you set a timer for {0} minutes?""",
        "Done",
        "status: status; ends_at: time",
    ),
    Skill(
        "device",
        "set_device",
        "Turn a device on or off.|Switch a device in the house.|Control a device.",
        "device: device; state: =on,off",
        """Turn {1} the {0}.|Switch {1} the {0}.|Turn the {0} {1}.|Please turn {1} the {0}.
        Set the {0} to {1}.|The {0} should be {1}.|Turn my {0} {1}.|I want the {0} {1}.
        Switch my {0} {1}.|{0} {1}, please.
        Switch the {0} {1}, please.|Can you turn {1} the {0}?""",
        "Done",
        "status: status",
    ),
    Skill(
        "music",
        "play_music",
        "Play music.|Plays music of some kind.|Play music of a genre.",
        "genre: genre",
        """Play {0} music.|Play some {0}.|I want to hear {0}.|Put on {0} music.|Play {0}.
        Some {0} music, please.|Let us hear some {0}.|Start {0} music.|I like {0}. Play some.
        Please play some {0} music.|Can you play {0}?""",
        "Done",
        "status: status",
    ),
)
