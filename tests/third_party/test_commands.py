"""Sub-commands that plugins bring."""


def test_command_of_a_plugin_works(segkit):
    answer = segkit("hello")
    assert (answer.code, answer.out) == (0, "hello from acme\n")
    assert set(answer.imported) == {"acme_commands", "acme_commands_cli"}


def test_help_lists_commands_of_plugins_apart_without_importing_them(segkit):
    answer = segkit("--help")
    own, _, others = answer.out.partition("Commands of plugins:")
    assert "hello" not in own
    assert "  hello       from acme-commands 3.1\n" in others
    assert "models" not in others
    assert answer.imported == ()


def test_factory_that_is_no_command_is_an_error_of_the_plugin(segkit):
    answer = segkit("no-command")
    assert answer.code == 1
    assert "from acme-commands 3.1, it is broken at stage 'factory': expected a click command, got a int" in answer.err


def test_typo_in_a_command_is_told_the_nearest_one(segkit):
    answer = segkit("helo")
    assert (answer.code, answer.err) == (2, "error: no command 'helo'; did you mean 'hello'?\n")
