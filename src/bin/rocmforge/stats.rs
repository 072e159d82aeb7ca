//! Mean, deviation, percentiles.

use std::ops::AddAssign;

/// Sums from which mean and standard error follow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    pub count: u64,
    pub sum: f64,
    pub sum2: f64,
}

impl Sums {
    pub fn add(&mut self, x: f64) {
        self.count += 1;
        self.sum += x;
        self.sum2 += x * x;
    }

    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// Standard error of the mean; 0 where there are too few values to tell.
    pub fn error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let variance = self.sum2 / self.count as f64 - self.mean() * self.mean();
        (variance.max(0.0) / (self.count - 1) as f64).sqrt()
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.sum2 += other.sum2;
    }
}

pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Sample standard deviation; 0 for fewer than two values.
pub fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let sum: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (sum / (values.len() - 1) as f64).sqrt()
}

/// The value below which `fraction` (0 to 1) of the ascending `sorted` lies, linear between neighbours.
pub fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = fraction.clamp(0.0, 1.0) * last as f64;
    let i = at as usize;
    let part = at - i as f64;
    (1.0 - part) * sorted[i] + part * sorted[(i + 1).min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_error() {
        let mut s = Sums::default();
        [1.0, 2.0, 3.0, 4.0].iter().for_each(|&x| s.add(x));
        assert_eq!(s.mean(), 2.5);
        // population variance 1.25 over n - 1 = 3
        assert!((s.error() - (1.25f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(Sums::default().mean(), 0.0);
        assert_eq!(Sums::default().error(), 0.0);
    }

    #[test]
    fn sample_deviation() {
        assert_eq!(deviation(&[5.0]), 0.0);
        assert!(
            (deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) - (32.0f64 / 7.0).sqrt()).abs() < 1e-15
        );
    }

    #[test]
    fn percentiles() {
        let v = [0.0, 10.0, 20.0, 30.0];
        assert_eq!(percentile(&v, 0.0), 0.0);
        assert_eq!(percentile(&v, 1.0), 30.0);
        assert_eq!(percentile(&v, 0.5), 15.0);
        assert!((percentile(&v, 0.9) - 27.0).abs() < 1e-12);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
