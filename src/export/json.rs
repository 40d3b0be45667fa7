//! JSON strings and numbers written straight into a reused buffer, byte for byte as serde_json writes them.

/// Writes a string with quotes, escaped.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing to a vector does not fail");
    }
}

/// Writes an integer.
pub(super) fn number(out: &mut Vec<u8>, n: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Writes `x` rounded to four decimals, with as few digits as possible.
pub(super) fn decimals(out: &mut Vec<u8>, x: f32) {
    let scaled = (f64::from(x) * 1e4).round();
    // Doubles that differ within fifteen significant digits are distinct, so the digits of the integer are the shortest form.
    if scaled.abs() >= 1e15 || !scaled.is_finite() {
        serde_json::to_writer(out, &(scaled / 1e4)).expect("writing to a vector does not fail");
        return;
    }
    if scaled.is_sign_negative() {
        out.push(b'-');
    }
    let scaled = scaled.abs() as u64;
    number(out, scaled / 10_000);
    let fraction = scaled % 10_000;
    let digits = [fraction / 1000, fraction / 100 % 10, fraction / 10 % 10, fraction % 10].map(|d| b'0' + d as u8);
    let used = digits.iter().rposition(|&d| d != b'0').map_or(1, |last| last + 1);
    out.push(b'.');
    out.extend_from_slice(&digits[..used]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("JSON is text")
    }

    proptest! {
        #[test]
        fn pieces_are_what_serde_json_writes(text: String, n: u64, x: f32, small in -50_000i32..50_000) {
            prop_assert_eq!(written(|out| string(out, &text)), serde_json::to_string(&text).unwrap());
            prop_assert_eq!(written(|out| number(out, n)), n.to_string());
            for x in [x, small as f32 / 7e3, small as f32 / 1e4, -0.0, f32::MAX, f32::NAN] {
                let want = serde_json::to_string(&((f64::from(x) * 1e4).round() / 1e4)).unwrap();
                prop_assert_eq!(written(|out| decimals(out, x)), want);
            }
        }
    }
}
