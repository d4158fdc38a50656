import pytest
from absl import flags

from dcpt_jax import config as configs
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


def test_only_numbers_are_read_as_numbers():
    flags_of_texts = ("data.root", "data.sources.rain", "model.name", "loss_terms")
    config = parse(*(f"--config.{key}=1e3" for key in flags_of_texts), config="configs/restore.py")
    assert (config.data.root, config.model.name, config.loss_terms) == ("1e3",) * 3
    assert config.data.sources.rain == "1e3"


def test_values_of_classes():
    config = parse(
        *("--config.repeats.l+h+r=3", "--config.repeats.noise:12.5", "2"),
        *("--config.repeats.haze=3", "-config.repeats.haze=4", '--config.repeats["rain"]=1'),
        *("--config.data.sources.l+h=pairs:a=b,c", "--config.tasks=low_light+haze,rain,snow"),
        *("--config.synthetic_repeats.l+h=3", "--config.synthetic_repeats.rain=2"),
    )
    assert config.repeats.is_locked
    assert configs.repeats_of(config) == {
        "haze": 4,
        "rain": 1,
        "low_light+rain+haze": 3,
        "noise:12.5": 2,
    }
    assert config.data.sources["low_light+haze"] == "pairs:a=b,c"
    assert [task.repeats for task in configs.tasks_of(config)] == [3, 2, 1]


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
        (["--config.repeats.fog=1"], r"key --config\.repeats\.fog; .*haze, .*and mixtures"),
        (["--config.repeats.5d=1"], r"unknown key --config\.repeats\.5d"),
        (["--config.repeats.haze=2.5"], r"config\.repeats\.haze is '2\.5'; it must be an integer"),
        (["--config.synthetic_repeats.fog=1"], r"key --config\.synthetic_repeats\.fog; "),
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


def test_one_dash_before_the_config_is_enough():
    arguments = ["main", "-config=configs/pretrain.py", "--config.seed=many"]
    with pytest.raises(ConfigError, match=r"'many' is not an integer$"):
        config_flags.parse(arguments, define())


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
