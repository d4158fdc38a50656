import pytest
from absl import flags

from dcpt_jax.config import ConfigError
from dcpt_jax.config import flags as config_flags


def define():
    values = flags.FlagValues()
    config_flags.define(values)
    return values


def parse(*arguments, config="configs/pretrain.py"):
    values = define()
    config_flags.parse(["main", f"--config={config}", *arguments], values)
    return values.config


def test_the_last_of_equal_flags_counts():
    config = parse(
        "--config.model.encoder_blocks=(1,2)",
        "--config.num_steps=3",
        "--config.model.encoder_blocks=(3,4)",
        "--config.num_steps=5",
    )
    assert config.model.encoder_blocks == (3, 4) and config.num_steps == 5


def test_whole_numbers_may_have_an_exponent():
    config = parse("--config.num_steps=1e3", "--config.optimizer.learning_rate=2e-4")
    assert (config.num_steps, config.optimizer.learning_rate) == (1000, 2e-4)
    assert parse("--config.repeats.haze=1e3").repeats.haze == 1000
    with pytest.raises(ConfigError, match=r"num_steps=1\.5"):
        parse("--config.num_steps=1.5")


def test_values_may_follow_their_flags_and_one_dash_is_enough(monkeypatch):
    monkeypatch.setenv("ROOT", "/data")
    blocks = "--config.model.encoder_blocks"
    config = parse(
        *("--config.num_steps", "1e3", blocks, "(1,2)", "--config.remat", blocks, "(3,4)"),
        *("-config.seed=5", "--config.data.root", "$ROOT/x", "--config.data.num_workers", "-1"),
    )
    assert (config.num_steps, config.seed, config.remat) == (1000, 5, True)
    assert config.model.encoder_blocks == (3, 4)
    assert (config.data.root, config.data.num_workers) == ("/data/x", -1)


@pytest.mark.parametrize(
    "text", ["rain,haze", "['rain', 'haze']", '("rain","haze")', " rain , haze "]
)
def test_lists_of_tasks_may_have_brackets_and_quotes(text):
    assert parse(f"--config.tasks={text}").tasks == "rain,haze"


def test_the_home_folder_is_expanded_in_values(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = parse("--config.data.root=~/photos", "--config.data.sources.rain=pairs:$HOME/a,~/b")
    assert config.data.root == "/home/me/photos"
    assert config.data.sources.rain == "pairs:/home/me/a,/home/me/b"
    config = parse('--config.data.sources.rain=pairs:"~/a;b","$HOME",same')
    assert config.data.sources.rain == 'pairs:"/home/me/a;b","/home/me",same'
    with pytest.raises(ConfigError, match=r"no such config file: '/home/me/mine\.py'"):
        parse(config="~/mine.py")
    with pytest.raises(ConfigError, match="no such environment variable"):
        parse("--config.init_from=$NOT_SET_ANYWHERE/x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.model.encoder_blocks[0]=3"], r"set all elements, --config\.model\.enc"),
        (["--config.model=3"], r"config\.model"),
        (["--config.optimizer.rate=1"], r"unknown key --config\.optimizer\.rate; known in .*decay"),
        (["--config.seed=many"], r"config\.seed=many: 'many' is not an integer$"),
        (["--config.num_steps=1.5"], r"config\.num_steps=1\.5: '1\.5' is not an integer$"),
        (["--config.ema_decay=much"], r"config\.ema_decay=much: 'much' is not a number$"),
        (["--config.batchsize=4"], r"known in .*; did you mean --config\.batch_size\?"),
        (["--config.optimizer.learningrate=1"], r"mean --config\.optimizer\.learning_rate\?"),
        (["--config.repeats.low_ligt=2"], r"; did you mean low_light\?"),
        (["--config.data.sources=pairs:a,b"], r"sources is a section; set .*sources\.rain,"),
        (["--config.optimizer=adamw"], r"optimizer is a section; set its keys: .*\.learning_rate"),
        (["--config.mode=restore"], "config.mode cannot be set: --config=FILE chooses the stage$"),
        (["--config.remat=yes"], r"remat=yes: 'yes' is neither True nor False$"),
        (["--config.tasks=rain haze", "--config.seed=x"], "'x' is not an integer$"),
        (["--num_steps=3"], r"unknown flag --num_steps; did you mean --config\.num_steps\?"),
        (["--batch-size", "3"], r"unknown flag --batch-size; did you mean --config\.batch_size\?"),
        (["--x=1"], "unknown flag --x$"),
    ],
)
def test_errors_are_one_sentence(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)


def test_unknown_files_and_presets():
    with pytest.raises(ConfigError, match=r"no such config file: 'configs/nothing\.py'"):
        parse(config="configs/nothing.py")
    with pytest.raises(
        ConfigError, match=r"'configs/pretrian\.py'; did you mean configs/pretrain\.py"
    ):
        parse(config="configs/pretrian.py")
    with pytest.raises(ConfigError, match=r"'pretrain'; did you mean configs/pretrain\.py\?"):
        parse(config="pretrain")
    with pytest.raises(ConfigError, match=r"no such config file: ''$"):
        parse(config="")
    with pytest.raises(ConfigError, match="--config=FILE is missing, e"):
        config_flags.parse(["main", "--config.seed=3"], define())
    with pytest.raises(ConfigError, match=r"unknown preset 'NAFNet'.*; did you mean nafnet\?"):
        parse(config="configs/pretrain.py:NAFNet")
    with pytest.raises(ConfigError, match=r"unknown preset 'resnet'.*nafnet"):
        parse(config="configs/pretrain.py:resnet")
    with pytest.raises(ConfigError, match=r"unknown preset 'nafent'.*; did you mean nafnet\?"):
        parse(config="configs/pretrain.py:nafent,5d")


@pytest.mark.parametrize(
    "text",
    [
        *("import no_such_library", "def get_config(:", "get_config = lambda _: 1 / 0", ""),
        *("get_config = lambda _: None", "get_config = dict"),
    ],
)
def test_a_config_file_that_fails_is_named(text, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.py(: | must have a function get_config that)"):
        parse(config=file)
