//! Makes sure that the folder of the built page exists, so that the hub builds before the page does.

fn main() {
    let page = "../web-demo/dist";
    // A release has the page inside, so it is built anew with it; all others read it when it is asked for.
    let inside = std::env::var("OPT_LEVEL").is_ok_and(|level| level == "3");
    println!("cargo:rerun-if-changed={}", if inside { page } else { "build.rs" });
    if let Err(error) = std::fs::create_dir_all(page) {
        println!("cargo:warning=cannot make {page}: {error}");
    }
}
