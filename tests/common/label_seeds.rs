//! Label files for the fuzz targets: each format, with odd values in each field, and compressed.

use std::io::Write;

/// JSON values, valid and not. A fuzzer seldom finds the words and the forms of numbers by itself.
const JSON: &[&str] = &[
    "0",
    "-0",
    "-1",
    "0.5",
    "1e5",
    "1E+5",
    "1e-5",
    "1.5e10",
    "1e400",
    "1e-400",
    "1e99999999999",
    "0e99999999999",
    "18446744073709551616",
    "-9223372036854775809",
    "123456789012345678901.5e-50",
    "1.",
    "-",
    "01",
    "1e",
    "1e+",
    "1ex",
    "1795000000.123456",
    "\"\"",
    r#""\n\t\r\b\f\/\\\"""#,
    r#""\u0041\u00e9""#,
    r#""\uD83D\uDE00""#,
    r#""\uD83D""#,
    r#""\uD83Dx""#,
    r#""\uD83D\u0041""#,
    r#""\u12""#,
    r#""\x""#,
    "\"abc",
    "\"\x01\"",
    "\"é漢𝄞\"",
    "true",
    "false",
    "null",
    "tru",
    "fals",
    "nul",
    "truX",
    "[]",
    "[1,2]",
    "[1 2]",
    "[1,]",
    "[",
    "[1,",
    "[\"a\",\"b\"]",
    "[[[]],{}]",
    "[}",
    "{}",
    "{\"a\":1,}",
    "{\"a\"}",
    "{\"a\" 1}",
    "{a:1}",
    "{\"a\":{\"b\":[1]}}",
    "{\"a\":1]",
    "}",
    "1} x",
];

/// An event of Suricata or spiked, a row of Zeek's JSON log, and an event of the Elastic Common Schema.
const OBJECTS: [&[(&str, &str)]; 3] = [
    &[
        ("src_ip", "\"10.0.0.1\""),
        ("src_port", "1234"),
        ("dest_ip", "\"10.0.0.2\""),
        ("dest_port", "80"),
        ("proto", "\"TCP\""),
        ("app_proto", "\"http\""),
        ("pcap_filename", "\"a.pcap\""),
        ("flow", r#"{"start":"2026-01-31T12:00:00Z","end":"2026-01-31T12:00:01Z"}"#),
    ],
    &[
        ("ts", "1795000000.5"),
        ("id.orig_h", "\"10.0.0.1\""),
        ("id.orig_p", "1234"),
        ("id.resp_h", "\"10.0.0.2\""),
        ("id.resp_p", "80"),
        ("proto", "\"tcp\""),
        ("service", "\"http\""),
        ("duration", "1.5"),
    ],
    &[
        ("log", r#"{"file":{"path":"a.pcap"}}"#),
        ("source", r#"{"ip":"::1","port":1}"#),
        ("destination", r#"{"ip":"::2","port":2}"#),
        ("network", r#"{"transport":"udp"}"#),
        ("event", r#"{"start":"2026-01-31T12:00:00+0100","end":"2026-01-31"}"#),
        ("spiked", r#"{"class":"x"}"#),
    ],
];

const COLUMNS: [&str; 9] = ["capture", "proto", "src_ip", "src_port", "dst_ip", "dst_port", "start", "end", "label"];
const ROW: [&str; 9] = ["a.pcap", "tcp", "10.0.0.1", "1", "10.0.0.2", "2", "", "", "x"];
const ZEEK: &str =
    "#separator \\x09\n#unset_field\t-\n#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\n";

/// Values of a table's cells, of any column.
const CELLS: &[&str] = &[
    "",
    "-",
    "(empty)",
    "\"a \"\"b\"\" c\"",
    "\"open",
    "a\rb",
    "0",
    "-1",
    "+80",
    "80.0",
    "65536",
    "1e3",
    "1e-6",
    "1e11",
    "nan",
    "1.1234567890",
    "18446744073709551616",
    "2026-01-31",
    "2026-01-31T12:00",
    "2026-01-31 12:00:00.5",
    "2026-01-31T12:00:00.123456789+01:00",
    "2026-01-31T12:00:00-0100",
    "2026-01-31T12:00:00[Europe/Paris]",
    "2026-13-31",
    "20260131T120000Z",
    "-009999-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2026-01-31T12:00:60Z",
    "2026-01-31T12:00:00+25:00",
    "::1",
    "fe80::1%eth0",
    "1.2.3",
    "300.1.1.1",
    "::ffff:1.2.3.4",
    "aa:bb:cc:dd:ee:ff",
    "[::1]",
    "1:2:3:4:5:6:7:8:9",
    "udp",
    "17",
    "256",
    "ipv6-icmp",
    "icmp6",
    "sctp",
    "0x0806",
    "ARP",
    "LLDP",
    "eth:0x0806",
    "65535",
    "65536",
];

fn object(fields: &[(&str, &str)], field: usize, value: &str) -> String {
    let value_of = |at: usize, own| if at == field { value } else { own };
    let fields: Vec<String> =
        fields.iter().enumerate().map(|(at, (name, own))| format!("\"{name}\":{}", value_of(at, *own))).collect();
    format!("{{{}}}\n", fields.join(","))
}

/// A gzip file with the optional fields that `flags` announces (RFC 1952), of deflated bytes.
fn gzip(flags: u8, deflated: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3];
    let fields: [(u8, &[u8]); 3] = [(4, b"\x06\0AB\x02\0xy"), (8, b"name\0"), (16, b"comment\0")];
    fields.iter().filter(|(flag, _)| flags & flag != 0).for_each(|(_, field)| file.extend(*field));
    [&file, deflated].concat()
}

/// The text in each format of compression, also twice, followed by zeros, and cut.
fn compressed(text: &[u8]) -> Vec<Vec<u8>> {
    let mut deflate = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    deflate.write_all(text).expect("memory");
    let packed = deflate.finish().expect("memory");
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    lz4.write_all(text).expect("memory");
    let mut files = vec![lz4.finish().expect("memory"), zstd::encode_all(text, 1).expect("memory")];
    files.extend([0, 4, 8, 16, 31, 32].map(|flags| gzip(flags, &packed[10..])));
    let odd = |file: &Vec<u8>| {
        [[&file[..], file].concat(), [file, &[0; 20][..]].concat(), file[..file.len() - 3].to_vec(), file[..9].to_vec()]
    };
    let skippable = |file: &Vec<u8>| [&b"\x50\x2a\x4d\x18\x04\0\0\0abcd"[..], file].concat();
    files.iter().flat_map(odd).chain(files.iter().map(skippable)).chain(files.clone()).collect()
}

/// The seeds, none longer than 4 KiB.
pub fn label_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for fields in OBJECTS {
        for field in 0..fields.len() {
            seeds
                .extend(JSON.chunks(6).map(|values| values.iter().map(|value| object(fields, field, value)).collect::<String>()));
        }
    }
    for separator in [",", ";", "\t", "|"] {
        let line = |cells: [&str; 9]| cells.join(separator) + "\n";
        for column in 0..ROW.len() {
            let changed = |cell: &&str| {
                let mut row = ROW;
                row[column] = *cell;
                line(row)
            };
            seeds.extend(CELLS.chunks(8).map(|cells| line(COLUMNS) + &cells.iter().map(changed).collect::<String>()));
        }
        seeds.push("\u{feff}".to_string() + &line(COLUMNS).to_uppercase() + &line(ROW).replace('\n', "\r\n"));
    }
    seeds.push("capture,host,label\na.pcap,10.0.0.1,camera\na.pcap,aa:bb:cc:dd:ee:ff,tv\n".into());
    seeds.push(
        "event_type,src_ip,dest_ip,src_port,dest_port,proto,app_proto\nflow,1.2.3.4,1.2.3.5,1,2,TCP,http\nflow,,,,,,\n".into(),
    );
    seeds.push("#flow_id,protocol,src_ip,src_port,dst_ip,dst_port,ndpi_proto\n1,6,1.2.3.4,1,1.2.3.5,2,HTTP\n".into());
    for cells in CELLS.chunks(8) {
        let row =
            |cell: &&str| format!("{cell}\t{cell}\t1\t10.0.0.2\t2\t{cell}\thttp\t{cell}\n1\t::1\t1\t::2\t2\tudp\t-\t-   C&C\n");
        seeds.push(ZEEK.to_string() + &cells.iter().map(row).collect::<String>() + "#close\n");
    }
    let table = COLUMNS.join(",") + "\n" + &ROW.join(",") + "\n";
    let invalid = [&b"\xff\xfe\n"[..], b"{\"a\":\"\xff\"}\n", &[table.as_bytes(), b"a,\xff,b\n"].concat()].map(<[u8]>::to_vec);
    let texts = seeds.into_iter().map(String::into_bytes);
    texts.chain(invalid).chain(compressed(table.as_bytes())).collect()
}
