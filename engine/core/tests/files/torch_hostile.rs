//! Torch's files that are cut, contradictory or made to hurt. Each must be refused by name, without a panic, and without memory that the file
//! has no bytes for. Nothing in them is ever executed: the reader has nothing that could.

use luthier_core::{EngineError, ErrorCode, load};

use crate::allocations::peak_of;
use crate::support::{Folder, TinyModel, refused};
use crate::torch_file::{Archive, Fields, dense, dict, ints, tensor, text};

use ErrorCode::{ModelCorrupt, ModelUnsupported};

/// What reading a small file may allocate beside a multiple of its size: the configuration, messages.
const SLACK: usize = 128 << 10;

fn folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.file("config.json", TinyModel::new(false).config_json().to_string().as_bytes());
    folder
}

/// Opens a folder whose weights are these bytes. The error names the file.
fn open(folder: &Folder, what: &str, bytes: &[u8]) -> EngineError {
    let path = folder.file("pytorch_model.bin", bytes);
    let (error, peak) = peak_of(|| refused(&folder.0));
    assert!(peak <= 32 * bytes.len() + SLACK, "{what}: {peak} bytes for a file of {}", bytes.len());
    assert!(error.message.contains(path.to_str().unwrap()), "{what}: {error}");
    error
}

fn refuses(folder: &Folder, what: &str, bytes: &[u8], code: ErrorCode, part: &str) {
    let error = open(folder, what, bytes);
    assert_eq!(error.code, code, "{what}: {error}");
    assert!(error.message.contains(part), "{what}: {error}");
}

/// A pickle of protocol 2 with this between its beginning and its end.
fn pickle(parts: &[&[u8]]) -> Vec<u8> {
    [b"\x80\x02".as_slice(), &parts.concat(), b"."].concat()
}

/// What would run a program, import a module or make an object, in every way that pickles have.
#[test]
fn whatever_would_execute_is_refused_by_name() {
    let folder = folder("hostile-execute");
    let command = text("touch hostile");
    let system = b"cos\nsystem\n".as_slice();
    let long = |text: &str| [b"\x8c".as_slice(), &[text.len() as u8], text.as_bytes()].concat();
    let ordered = b"ccollections\nOrderedDict\n".as_slice();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("GLOBAL", pickle(&[system, &command, b"\x85R"]), "`os.system`"),
        ("GLOBAL of a builtin", pickle(&[b"cbuiltins\neval\n", &command, b"\x85R"]), "`builtins.eval`"),
        ("GLOBAL of another name of torch", pickle(&[b"ctorch\nload\n)R"]), "`torch.load`"),
        (
            "GLOBAL with dots",
            pickle(&[b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R"]),
            "`torch._utils._rebuild_tensor_v2.__globals__`",
        ),
        ("GLOBAL of a module in a module", pickle(&[b"ctorch.os\nsystem\n)R"]), "`torch.os.system`"),
        ("GLOBAL without a name", pickle(&[b"c\n\n)R"]), "`.`"),
        ("GLOBAL that only looks known", pickle(&[b"ctorch \nFloatStorage\n)R"]), "`torch .FloatStorage`"),
        ("GLOBAL in an argument", dict(&[("a", [system, &command, b"\x85R"].concat())]), "`os.system`"),
        ("STACK_GLOBAL", pickle(&[&long("os"), &long("system"), b"\x93", &command, b"\x85R"]), "`os.system`"),
        (
            "STACK_GLOBAL by memo",
            pickle(&[&long("posix"), b"\x94", &long("system"), b"\x94h\x00h\x01\x93", &command, b"\x85R"]),
            "`posix.system`",
        ),
        ("INST", pickle(&[b"(", &command, b"ios\nsystem\n"]), "`os.system` (INST)"),
        ("OBJ", pickle(&[b"(", ordered, b"o"]), "`collections.OrderedDict` (OBJ)"),
        ("OBJ of a str", pickle(&[b"(", &command, b"o"]), "a str (OBJ)"),
        ("OBJ of nothing", pickle(&[b"o"]), "nothing (OBJ)"),
        ("NEWOBJ", pickle(&[ordered, b")\x81"]), "`collections.OrderedDict` (NEWOBJ)"),
        ("NEWOBJ_EX", pickle(&[ordered, b")}\x92"]), "`collections.OrderedDict` (NEWOBJ_EX)"),
        ("NEWOBJ of nothing", pickle(&[b"\x81"]), "nothing (NEWOBJ)"),
        ("BUILD of a class", pickle(&[ordered, b"}b"]), "attributes of a class or function (BUILD)"),
        (
            "BUILD of a tensor",
            pickle(&[&tensor("FloatStorage", "0", 1, 0, &[1], &[1]), b"}b"]),
            "attributes of a tensor (BUILD)",
        ),
        ("EXT1", pickle(&[b"\x82\x07)R"]), "extension 7 of copyreg (EXT1)"),
        ("EXT2", pickle(&[b"\x83\x07\x01)R"]), "extension 263 of copyreg (EXT2)"),
        ("EXT4", pickle(&[b"\x84\x07\x00\x00\x01)R"]), "extension 16777223 of copyreg (EXT4)"),
        ("REDUCE of a str", pickle(&[&command, b")R"]), "a call of a str (REDUCE)"),
        ("REDUCE of a result", pickle(&[ordered, b")R)R"]), "a call of a dict (REDUCE)"),
        (
            "REDUCE of a storage's class",
            pickle(&[b"ctorch\nFloatStorage\nK\x01\x85R"]),
            "`torch.FloatStorage` of 1: an int",
        ),
        ("REDUCE of a dict with pairs", pickle(&[ordered, b"]\x85R"]), "`collections.OrderedDict` of 1: a list"),
        (
            "REDUCE of a parameter of no tensor",
            pickle(&[b"ctorch._utils\n_rebuild_parameter\nN\x88", ordered, b")R\x87R"]),
            "`torch._utils._rebuild_parameter` of 3: None",
        ),
        ("PERSID", pickle(&[b"Pstorage\n"]), "`storage` (PERSID)"),
        ("BINPERSID of a module", pickle(&[b"(", &text("module"), system, b"tQ"]), "`os.system`"),
        (
            "BINPERSID of something else",
            pickle(&[b"(", &text("module"), b"K\x01tQ"]),
            "a persistent object that is no storage: a str, an int",
        ),
        ("protocol 0", b"cos\nsystem\n(S'touch hostile'\ntR.".to_vec(), "protocols 0 and 1"),
        ("protocol 1", b"cos\nsystem\n(U\x05touchtR.".to_vec(), "protocols 0 and 1"),
        ("protocol 0, said so", b"\x80\x00cos\nsystem\n)R.".to_vec(), "protocol 0"),
        ("protocol 6", b"\x80\x06}.".to_vec(), "protocol 6"),
        ("a second protocol", pickle(&[b"\x80\x05}"]), "0x80"),
        ("bytes", pickle(&[b"C\x01a"]), "0x43"),
        ("a set", pickle(&[b"\x8f"]), "0x8f"),
        ("a buffer", pickle(&[b"\x97"]), "0x97"),
        ("POP", pickle(&[b"}}0"]), "0x30"),
        ("DUP", pickle(&[b"}2"]), "0x32"),
    ];
    for (what, pickle, part) in cases {
        refuses(&folder, what, &Archive::of_pickle(&pickle, &[vec![0; 4]]).bytes, ModelUnsupported, part);
    }
    assert!(!folder.0.join("hostile").exists());
}

#[test]
fn pickles_that_are_malformed_are_refused() {
    let folder = folder("hostile-malformed");
    let float = |key: &str, len, offset, shape: &[usize], strides: &[usize]| {
        tensor("FloatStorage", key, len, offset, shape, strides)
    };
    let one = |value: Vec<u8>| dict(&[("model.norm.weight", value)]);
    let item = one(float("0", 8, 0, &[8], &[1]));
    let rebuild = |storage: &[u8], rest: &[u8]| {
        one([b"ctorch._utils\n_rebuild_tensor_v2\n(", storage, rest, b"\x89)tR"].concat())
    };
    let storage =
        [b"(".as_slice(), &text("storage"), b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x08tQ"].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "in the middle of a value"),
        ("only a beginning", b"\x80\x02".to_vec(), "in the middle of a value"),
        ("nothing on the stack", pickle(&[]), "is not there"),
        ("an empty mark", pickle(&[b"t"]), "a mark is used"),
        ("a value below the mark", pickle(&[b"}(s"]), "is not there"),
        ("two values left", pickle(&[b"}}"]), "nothing uses"),
        ("a mark left", pickle(&[b"(}"]), "nothing uses"),
        ("bytes behind the end", [item.as_slice(), b"cos\nsystem\n"].concat(), "before its last byte"),
        ("a key without a value", pickle(&[b"}(K\x01u"]), "a key has no value"),
        ("a pair in a list", pickle(&[b"]K\x01K\x01s"]), "no dict"),
        ("an appended value in a dict", pickle(&[b"}K\x01a"]), "expected a list"),
        ("a name that does not end", pickle(&[b"ctorch"]), "does not end"),
        ("a name of a number", pickle(&[b"K\x01K\x01\x93"]), "no str"),
        ("a text that is not UTF-8", pickle(&[b"X\x02\x00\x00\x00\xff\xfe"]), "UTF-8"),
        ("a text of 4 GiB", pickle(&[b"X\xff\xff\xff\xff"]), "in the middle of a value"),
        ("a text of 2^63", pickle(&[b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"]), "in the middle of a value"),
        ("a text of 2^64 - 1", pickle(&[b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"]), "in the middle of a value"),
        ("a frame beyond the end", pickle(&[b"\x95\xff\xff\xff\xff\xff\xff\xff\xff"]), "a frame of"),
        ("an int of 255 bytes", pickle(&[b"\x8a\xff", &[1; 255]]), "255 bytes"),
        ("an int that is cut", b"\x80\x02\x8a\x08\x01".to_vec(), "in the middle of a value"),
        ("a value never kept", pickle(&[b"h\x07"]), "value 7 is recalled"),
        ("a value kept far away", pickle(&[b"}r\xff\xff\xff\xff"]), "kept as number 4294967295; the next one is 0"),
        ("keeping nothing", pickle(&[b"q\x00"]), "is not there"),
        ("keeping below the mark", pickle(&[b"}(\x94"]), "is not there"),
        ("arguments that are no tuple", pickle(&[b"ccollections\nOrderedDict\n}R"]), "expected a tuple"),
        ("a storage by no tuple", pickle(&[b"}Q"]), "expected a tuple"),
        (
            "a storage of less than nothing",
            one([
                b"(".as_slice(),
                &text("storage"),
                b"ctorch\nFloatStorage\n",
                &text("0"),
                &text("cpu"),
                b"J\xff\xff\xff\xfftQ",
            ]
            .concat()),
            "-1 numbers",
        ),
        ("a tensor of no storage", rebuild(b"N", b"K\x00K\x08\x85K\x01\x85"), "no storage"),
        ("a tensor at no number", rebuild(&storage, b"NK\x08\x85K\x01\x85"), "no storage, or at no number"),
        (
            "a tensor before its storage",
            rebuild(&storage, b"J\xff\xff\xff\xffK\x08\x85K\x01\x85"),
            "before its storage",
        ),
        ("a shape that is a list", rebuild(&storage, b"K\x00]K\x01\x85"), "shape is a list"),
        (
            "a shape of texts",
            rebuild(&storage, &[b"K\x00".as_slice(), &text("8"), b"\x85K\x01\x85"].concat()),
            "shape has something else",
        ),
        ("a shape below 0", rebuild(&storage, b"K\x00J\xff\xff\xff\xff\x85K\x01\x85"), "shape has something else"),
        ("strides below 0", rebuild(&storage, b"K\x00K\x08\x85J\xff\xff\xff\xff\x85"), "strides has something else"),
        ("a shape longer than its strides", rebuild(&storage, b"K\x00K\x08K\x01\x86K\x01\x85"), "different lengths"),
        ("a shape of nine numbers", one(float("0", 8, 0, &[1; 9], &[1; 9])), "9 numbers"),
        ("a tensor beyond its storage", one(float("0", 8, 0, &[9], &[1])), "not inside its storage of 8"),
        ("a tensor that begins beyond it", one(float("0", 8, 9, &[0], &[1])), "not inside its storage of 8"),
        ("a tensor that ends beyond it", one(float("0", 8, 4, &[5], &[1])), "not inside its storage of 8"),
        ("a shape that overflows", one(float("0", 8, 0, &[1 << 62, 4, 4], &[16, 4, 1])), "not inside its storage of 8"),
        ("an end that overflows", one(float("0", 8, 1, &[(1 << 63) - 1, 2], &[2, 1])), "not inside its storage of 8"),
        ("a storage that is missing", one(float("1", 8, 0, &[8], &[1])), "`data/1` is missing"),
        ("a storage outside its folder", one(float("../data.pkl", 8, 0, &[8], &[1])), "`data/../data.pkl` is missing"),
        ("a storage of another size", one(float("0", 9, 0, &[8], &[1])), "32 bytes; expected 9 numbers"),
        (
            "a storage of another type",
            one(tensor("HalfStorage", "0", 8, 0, &[8], &[1])),
            "32 bytes; expected 8 numbers",
        ),
        (
            "one name twice",
            dict(&[("a", float("0", 8, 0, &[8], &[1])), ("a", float("0", 8, 0, &[8], &[1]))]),
            "two tensors are called `a`",
        ),
    ];
    for (what, pickle, part) in cases {
        refuses(&folder, what, &Archive::of_pickle(&pickle, &[vec![0; 32]]).bytes, ModelCorrupt, part);
    }
    for (what, pickle, part) in [
        ("a tensor alone", [b"\x80\x02".as_slice(), &float("0", 8, 0, &[8], &[1]), b"."].concat(), "holds a tensor"),
        ("a list", pickle(&[b"]"]), "holds a list"),
        ("a key that is no text", pickle(&[b"}(K\x01", &float("0", 8, 0, &[8], &[1]), b"u"]), "an int is a tensor"),
        ("a dict that holds itself", pickle(&[b"}q\x00(", &text("a"), b"h\x00u"]), "`a` is a dict"),
        ("strides of a transposed matrix", one(float("0", 8, 0, &[2, 4], &[1, 2])), "strides [1, 2]"),
        ("rows of a wider matrix", one(float("0", 8, 0, &[2, 2], &[4, 1])), "strides [4, 1]"),
        ("one number many times", one(float("0", 8, 0, &[1 << 20], &[0])), "strides [0]"),
    ] {
        refuses(&folder, what, &Archive::of_pickle(&pickle, &[vec![0; 32]]).bytes, ModelUnsupported, part);
    }
    // What is read, so that the cases above fail for their own reason: the rest of the model is missing.
    refuses(&folder, "the whole", &Archive::of_pickle(&item, &[vec![0; 32]]).bytes[..0], ModelCorrupt, "empty");
    let error = {
        folder.file("pytorch_model.bin", &Archive::of_pickle(&item, &[vec![0; 32]]).bytes);
        refused(&folder.0)
    };
    assert!(error.message.contains("missing tensors: `lm_head.weight`"), "{error}");
}

/// Millions of opcodes: neither the stack of this program nor memory grows with how deep values nest or how often they are kept.
#[test]
fn depth_and_number_are_bounded() {
    let folder = folder("hostile-depth");
    let many = 3 << 20;
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("marks", b"(".repeat(many), "marks and values wait"),
        ("values", b"N".repeat(many), "values wait"),
        ("tuples in tuples", [b")".as_slice(), &b"\x85".repeat(many)].concat(), "makes more than"),
        ("lists in lists", [b"]".as_slice(), &b"]a".repeat(many)].concat(), "holds a list"),
        ("dicts in dicts", [b"}q\x00".as_slice(), &b"(N}u".repeat(many)].concat(), "makes more than"),
        ("kept values", [b"N".as_slice(), &b"\x94".repeat(many)].concat(), "makes more than"),
        ("pairs", [b"}".as_slice(), &b"NNs".repeat(many)].concat(), "makes more than"),
        (
            "long tuples",
            [b"}q\x00".as_slice(), &[b"(".as_slice(), &b"N".repeat(1000), b"t(u"].concat().repeat(many / 1000)]
                .concat(),
            "no dict",
        ),
        ("more than a pickle needs", vec![b'N'; 17 << 20], "at most 16777216"),
    ];
    for (what, middle, part) in cases {
        let bytes = Archive::of_pickle(&[b"\x80\x02", middle.as_slice(), b"."].concat(), &[]).bytes;
        let error = open(&folder, what, &bytes);
        assert!(error.message.contains(part), "{what}: {error}");
    }
}

#[test]
fn archives_that_contradict_themselves_are_refused() {
    let folder = folder("hostile-archive");
    let model = TinyModel::new(false);
    let good = model.torch_file(|_| true);
    let (entry, own, end) = (good.directory[2], good.headers[2], good.end);
    let end_64 = end - 20 - 56;
    let max = u32::MAX.to_le_bytes();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("another file", b"version https://git-lfs.github.com/spec/v1".to_vec(), "no directory at its end"),
        ("a few bytes", b"PK".to_vec(), "too short"),
        ("a compressed entry", good.with(entry + 10, &[8]), "`m/data/0` is compressed (method 8)"),
        ("an entry compressed by its own header alone", good.with(own + 8, &[8]), "`m/data/0`"),
        ("an encrypted entry", good.with(entry + 8, &[1]), "`m/data/0` is encrypted"),
        ("an entry larger than it takes", good.with(entry + 24, &[0, 0, 0, 0x7f]), "though it is not compressed"),
        (
            "an entry beyond the file",
            good.with(entry + 20, &[0, 0, 0, 0x7f, 0, 0, 0, 0x7f]),
            "reaches into the directory",
        ),
        (
            "an entry into the directory",
            good.with(entry + 42, &(end as u32 - 4).to_le_bytes()),
            "reaches into the directory",
        ),
        ("an entry at no header", good.with(entry + 42, &(own as u32 + 1).to_le_bytes()), "where no entry does"),
        (
            "an entry at another's header",
            good.with(entry + 42, &(good.headers[3] as u32).to_le_bytes()),
            "is another's",
        ),
        ("64-bit fields that are absent", good.with(entry + 42, &max), "lacks its 64-bit sizes"),
        ("another name in the header", good.with(own + 30, b"n"), "is another's"),
        ("a name that is not UTF-8", good.with(entry + 46, &[0xff]), "not UTF-8"),
        (
            "one name twice",
            {
                let other = good.with(entry + 46 + 7, b"1");
                let mut both = Archive { bytes: other, ..Archive::new(&[], Fields::Short) };
                both.bytes[own + 30 + 7] = b'1';
                both.bytes
            },
            "two entries are called `m/data/1`",
        ),
        ("no entry at the directory's place", good.with(entry, b"X"), "no directory entry begins"),
        ("a name longer than the directory", good.with(entry + 28, &[0xff, 0xff]), "beyond the end"),
        ("an extra field longer than the directory", good.with(entry + 30, &[0xff, 0xff]), "beyond the end"),
        ("another volume", good.with(entry + 34, &[1]), "another volume"),
        ("several volumes", good.with(end + 4, &[1]), "several volumes"),
        ("two ends that disagree", good.with(end + 16, &[1, 0, 0, 0]), "its two ends disagree"),
        ("entries without number", good.with(end_64 + 32, &u64::MAX.to_le_bytes()), "its two ends disagree"),
        ("no end where it should be", good.with(end - 12, &[0xff; 8]), "is not at byte"),
    ];
    for (what, bytes, part) in cases {
        refuses(&folder, what, &bytes, ModelCorrupt, part);
    }
    let long = Archive::new(&[("m/data.pkl", b"\x80\x02}.")], Fields::Long);
    let (end_64, extra) = (long.end - 20 - 56, long.directory[0] + 46 + "m/data.pkl".len());
    for (what, at, part) in [
        ("entries without number", end_64 + 32, "at most"),
        ("a directory without end", end_64 + 40, "reaches beyond"),
        ("a directory beyond the end", end_64 + 48, "reaches beyond"),
        ("a size without end", extra + 4, "not compressed"),
        ("a header beyond the end", extra + 20, "reaches into the directory"),
    ] {
        for value in [u64::MAX, 1 << 63, 1 << 40] {
            refuses(&folder, what, &long.with(at, &value.to_le_bytes()), ModelCorrupt, part);
        }
    }
    let sizes = [u64::MAX - 60, u64::MAX - 60].map(u64::to_le_bytes).concat();
    refuses(&folder, "sizes that overflow", &long.with(extra + 4, &sizes), ModelCorrupt, "reaches into the directory");
    refuses(
        &folder,
        "an extra field that is cut",
        &long.with(extra + 2, &[99]),
        ModelCorrupt,
        "lacks its 64-bit sizes",
    );
}

/// Two entries of one stretch of bytes: the classic bomb, and a way to show one reader another file than the next.
#[test]
fn entries_that_overlap_are_refused() {
    let folder = folder("hostile-overlap");
    let inner = Archive::new(&[("m/data/1", &[0; 8])], Fields::Short);
    let good = Archive::new(&[("m/data/0", &inner.bytes), ("m/data/1", &[0; 8])], Fields::Short);
    let at = good.bytes.windows(inner.bytes.len()).position(|window| window == inner.bytes).unwrap();
    let changed = good.with(good.directory[1] + 42, &(at as u32).to_le_bytes());
    refuses(&folder, "an entry in another", &changed, ModelCorrupt, "entries overlap");
}

#[test]
fn what_is_no_state_dict_is_named() {
    let folder = folder("hostile-kind");
    let refuse = |entries: &[(&str, &[u8])], code, part: &str| {
        refuses(&folder, part, &Archive::new(entries, Fields::Short).bytes, code, part);
    };
    refuse(&[], ModelCorrupt, "0 entries called data.pkl");
    refuse(&[("data.pkl", b"\x80\x02}.")], ModelCorrupt, "0 entries called data.pkl");
    refuse(&[("a/b/data.pkl", b"\x80\x02}.")], ModelCorrupt, "0 entries called data.pkl");
    refuse(&[("a/data.pkl", b"\x80\x02}."), ("b/data.pkl", b"\x80\x02}.")], ModelCorrupt, "2 entries called data.pkl");
    refuse(&[("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"big")], ModelUnsupported, "byte order is `big`");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = folder("hostile-cut");
    let bytes = TinyModel::new(false).torch_file(|name| name.contains("norm")).bytes;
    for length in (1..bytes.len()).step_by(37).chain([bytes.len() - 1]) {
        assert_eq!(open(&folder, "cut", &bytes[..length]).code, ModelCorrupt, "{length}");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let folder = folder("hostile-flipped");
    let model = TinyModel::new(false);
    let good = model.torch_file(|_| true);
    // The pickle and its header, and the directory; flips of a storage's bytes are other numbers.
    let (pickle, directory) = (good.headers[0]..good.headers[1], good.directory[0]..good.bytes.len());
    let mut state = 12345u32;
    let mut opened = 0;
    for round in 0..2000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let range = if round % 2 == 0 { &pickle } else { &directory };
        let at = range.start + (state >> 3) as usize % range.len();
        folder.file("pytorch_model.bin", &good.with(at, &[good.bytes[at] ^ 1 << (state & 7)]));
        let (files, peak) = peak_of(|| load::open(&folder.0));
        assert!(peak <= 32 * good.bytes.len() + SLACK, "{peak} bytes");
        // Many flips are harmless: a checksum, padding, a device's name.
        if let Ok(files) = files {
            opened += 1;
            for name in model.tensors.keys() {
                let _ = files.tensor(name).unwrap();
            }
        }
    }
    assert!(opened < 2000, "no flip was noticed");
    // Dense tensors of the writer are what the reader takes: the base of all of the above.
    assert_eq!((dense(&[2, 3, 4]), ints(&[])), (vec![12, 4, 1], b"(t".to_vec()));
}
