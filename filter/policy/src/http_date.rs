//! The dates of HTTP, as a host may give one in `Retry-After`. Our own reader, because it is a tenth of a library's.

const WEEKDAYS: [&[u8]; 7] = [b"Monday", b"Tuesday", b"Wednesday", b"Thursday", b"Friday", b"Saturday", b"Sunday"];
const MONTHS: [(&[u8; 3], u64); 12] = [
    (b"Jan", 31),
    (b"Feb", 28),
    (b"Mar", 31),
    (b"Apr", 30),
    (b"May", 31),
    (b"Jun", 30),
    (b"Jul", 31),
    (b"Aug", 31),
    (b"Sep", 30),
    (b"Oct", 31),
    (b"Nov", 30),
    (b"Dec", 31),
];

/// What follows a weekday. Small letters stand for what changes: `p` for the tens of a day or a space, `x` for any byte.
const DATE_FORMS: [&[u8]; 3] = [b", dd mmm yyyy hh:ii:ss GMT", b", dd-mmm-yyxhh:ii:ss GMT", b" mmm pd hh:ii:ss yyyy"];

/// The seconds from 1970 on to a date in one of the three forms of HTTP: `Sun, 06 Nov 1994 08:49:37 GMT`,
/// `Sunday, 06-Nov-94 08:49:37 GMT` (of 1970 to 2069) and `Sun Nov  6 08:49:37 1994`. `None` for all else, a wrong weekday
/// among it, and before 1970. Source: RFC 9110, section 5.6.7.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim().as_bytes();
    let (weekday, rest) = text.split_at_checked(text.iter().position(|byte| matches!(byte, b',' | b' '))?)?;
    let form = DATE_FORMS.into_iter().find(|form| {
        let fits = |(letter, byte): (&u8, &u8)| letter.is_ascii_lowercase() || letter == byte;
        form.len() == rest.len() && form.iter().zip(rest).all(fits)
    })?;
    let field = |name: u8| form.iter().zip(rest).filter(move |(letter, _)| **letter == name).map(|(_, byte)| *byte);
    let number = |name: u8| {
        field(name).try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0')))
    };
    let is_long = form.contains(&b'x');
    let day = match field(b'p').next() {
        Some(tens @ b'0'..=b'9') => number(b'd')? + u64::from(tens - b'0') * 10,
        Some(b' ') | None => number(b'd')?,
        Some(_) => return None,
    };
    let year = match number(b'y')? {
        short @ ..70 if is_long => short + 2000,
        short if is_long => short + 1900,
        year => year,
    };
    let (hours, minutes, seconds) = (number(b'h')?, number(b'i')?, number(b's')?);
    let mut days = day.checked_sub(1)?;
    let at = MONTHS.iter().position(|(name, _)| field(b'm').eq(name.iter().copied()))?;
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let length = |(at, (_, days)): (usize, &(_, u64))| days + u64::from(at == 1 && is_leap(year));
    if days >= MONTHS.iter().enumerate().nth(at).map(length)? {
        return None;
    }
    days += MONTHS.iter().enumerate().take(at).map(length).sum::<u64>();
    let past = year.checked_sub(1970)?;
    // The leap days of the years before this one, less those before 1970.
    let before = year - 1;
    days += past * 365 + before / 4 - before / 100 + before / 400 - 477;
    // 1970 began on a Thursday.
    let named = WEEKDAYS.iter().cycle().nth(((days + 3) % 7) as usize)?;
    let is_named = if is_long { *named == weekday } else { named.get(..3) == Some(weekday) };
    let is_time = hours < 24 && minutes < 60 && seconds < 60;
    (is_named && is_time).then_some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn dates_are_those_that_httpdate_reads() {
        let same = |text: &str| {
            let theirs = httpdate::parse_http_date(text).ok();
            let theirs = theirs.map(|date| date.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs());
            assert_eq!(parse(text), theirs, "{text}");
            theirs.is_some()
        };
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(text), Some(784_111_777), "{text}");
            for at in 0..text.len() {
                for byte in b"\0 09:-,ASGz\x7f" {
                    let mut bytes = text.as_bytes().to_vec();
                    bytes[at] = *byte;
                    same(core::str::from_utf8(&bytes).unwrap());
                }
                same(&text[..at]);
                same(&text[at..]);
                same(&format!("{}{}", &text[..at], &text[at..].replacen(|c: char| c.is_ascii_digit(), "x9", 1)));
            }
            assert!(same(&format!(" \t{text}\n")));
        }
        // Each day has one weekday, and those that are no days have none.
        let mut read = 0;
        let years = (1968..1978).chain(1996..2006).chain(2066..2073).chain([2100, 2400, 9999]);
        for (year, (month, _)) in years.flat_map(|year| MONTHS.map(|month| (year, month))) {
            let month = core::str::from_utf8(month).unwrap();
            for (day, weekday) in (0..34).flat_map(|day| WEEKDAYS.map(|weekday| (day, weekday))) {
                let weekday = core::str::from_utf8(weekday).unwrap();
                read += u32::from(same(&format!("{}, {day:02} {month} {year} 23:59:59 GMT", &weekday[..3])));
                if year < 2071 {
                    same(&format!("{weekday}, {day:02}-{month}-{:02} 00:00:00 GMT", year % 100));
                    same(&format!("{} {month} {day:2} 12:30:00 {year}", &weekday[..3]));
                }
            }
        }
        assert_eq!(read, 28 * 365 + 8, "every day of these years from 1970 on");
    }
}
