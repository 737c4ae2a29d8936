"""Usual tools that do something: they send, set, book and play.

Contract: plain data; the last request of a skill is for evaluation alone.
"""

from training.skills import Skill

ACTION_SKILLS = (
    Skill(
        "email",
        "send_email|email|send_mail|sendEmail",
        "Send an email.|Sends an email to somebody.|Send an email to a recipient",
        "to|recipient|address: email; subject|title: title; body|text|message|content: message",
        """Send an email to {0} with the subject {1} and the body {2}.|Email {0}: {1}. {2}.
        Send an email to {0}. The subject is "{1}" and the text is "{2}".
        Write an email to {0} with the subject "{1}" saying "{2}".|Mail {0} that says "{2}".
        Send {0} an email about {1} that says {2}.|Please email {0}, subject {1}, body {2}.
        Send an email to {0} with the subject "{1}" and the body "{2}".""",
        "Done",
        "status: status; id: code; sent: bool",
    ),
    Skill(
        "message",
        "send_message|send_text|text_message|send_sms",
        "Send a message to a person.|Sends a text message.|Send a text to a contact.",
        "to|name|contact|recipient|person: name; text|message|content|body: message",
        """Send a message to {0}: {1}|Text {0} "{1}".|Tell {0} by text: {1}.
        Send {0} the message "{1}".|Send a text to {0} that says "{1}".|Message {0}: {1}.
        Write {0} a message that says {1}.""",
        "Done",
        "status: status; id: code",
    ),
    Skill(
        "timer",
        "set_timer|start_timer|timer|set_alarm",
        "Set a timer.|Starts a timer for some minutes.|Set a timer in minutes.",
        "minutes|duration|mins: small; label|name: title",
        """Set a timer for {0} minutes.|Start a timer of {0} minutes.|Timer for {0} minutes!
        Set a timer for {0} minutes called {1}.|Remind me in {0} minutes.
        Start a {0} minute timer named {1}.|Please set a {0} minute timer.""",
        "Done",
        "status: status; ends_at: time",
    ),
    Skill(
        "calendar",
        "create_event|add_event|schedule_meeting|create_calendar_event",
        "Create an event in the calendar.|Adds an event.|Schedule a meeting.",
        "title|name|summary: title; date|day|when: date; time|start|start_time: time",
        """Schedule a {0} on {1} at {2}.|Put {0} on {1} at {2} in my calendar.
        Create an event {0} on {1} at {2}.|Add {0} to my calendar on {1} at {2}.
        I have a {0} on {1} at {2}. Put it in the calendar.|Schedule {0} for {1}.
        Create an event called {0} on {1} at {2}.""",
        "Done",
        "status: status; id: code",
    ),
    Skill(
        "music",
        "play_music|play|play_song|start_playback",
        "Play music.|Plays a song or an artist.|Play a song by name.",
        "song|title|track|query: thing; artist|by|singer: name",
        """Play {0}.|Play {0} by {1}.|Play the song {0}.|I want to hear {0} by {1}.
        Put on {0} by {1}.|Please play the track {0}.|Play the song {0} by {1}.""",
        "Done",
        "status: status; playing: thing",
    ),
    Skill(
        "device",
        "set_light|control_light|turn_on_off|switch|set_device|toggle",
        "Turn a device on or off.|Switch a device in the house.|Control a device.",
        "device|name|target: device; on|state|enabled|power: bool",
        """Turn {1} the {0}.|Switch {1} the {0}.|Turn the {0} {1}.|Please turn {1} the {0}.
        Switch the {0} {1}, please.|Set the {0} to {1}.|Can you turn {1} the {0}?""",
        "Done",
        "status: status; device: device",
    ),
    Skill(
        "user-create",
        "create_user|add_user|register_user|new_user",
        "Create a user.|Registers a new user.|Add a user with name, age and email.",
        "name|username: name; age: small; email|mail: email",
        """Create a user named {0}, age {1}, with the email {2}.|Add the user {0} with email {2}.
        Register {0}, who is {1} years old.|New user: {0}, {1} years old, {2}.
        Add a user called {0} who is {1} years old.""",
        "Done",
        "status: status; id: int",
    ),
)
